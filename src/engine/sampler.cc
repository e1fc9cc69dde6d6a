#include "engine/sampler.h"

#include <algorithm>

namespace sluice {
namespace {

constexpr uint64_t kProposals = 0x64726166;  // so that proposals are independent of what verifies them

/// The id at share u in [0, 1) of the total weight; ids in ascending order.
int32_t pick(std::span<const float> weights, double u) {
  double total = 0;
  for (const float w : weights) total += w;
  int32_t last = 0;
  double left = u * total;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] <= 0) continue;
    last = static_cast<int32_t>(i);
    left -= weights[i];
    if (left < 0) break;
  }
  return last;
}

}  // namespace

TokenSampler::TokenSampler(Stream& s, const SamplingRule& rule, uint64_t seed, int64_t limit)
    : s_(s), rule_(rule), seed_(seed), limit_(limit) {}

std::span<const float> TokenSampler::distribution(std::vector<float>& p, const Tensor& logits) {
  check(logits.rows() == 1, "TokenSampler: expected logits of one token");
  p.resize(static_cast<size_t>(logits.cols()));
  sampling_distribution(s_, Tensor(p.data(), {1, logits.cols()}), logits, limit_, rule_);
  return p;
}

int32_t TokenSampler::choose(const Tensor& logits, int64_t position) {
  Rng rng(seed_, static_cast<uint64_t>(position));
  return pick(distribution(p_, logits), rng.uniform());
}

int32_t TokenSampler::propose(const Tensor& logits, int64_t position) {
  Rng rng(mix64(seed_ ^ kProposals), static_cast<uint64_t>(position));
  return pick(distribution(q_, logits), rng.uniform());
}

int32_t TokenSampler::verify(const Tensor& logits, int64_t position, int32_t proposal) {
  Rng rng(seed_, static_cast<uint64_t>(position));
  distribution(p_, logits);
  const size_t d = static_cast<size_t>(proposal);
  if (rng.uniform() * q_[d] < p_[d]) return proposal;
  for (size_t i = 0; i < p_.size(); ++i) p_[i] = std::max(0.0f, p_[i] - q_[i]);
  return pick(p_, rng.uniform());
}

}  // namespace sluice
