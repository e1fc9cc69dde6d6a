#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/rng.h"

namespace sluice {

TokenSampler::TokenSampler(Stream& s, const SamplingRule& rule, uint64_t seed, int64_t limit)
    : s_(s), rule_(rule), seed_(seed), limit_(limit) {}

void TokenSampler::see(std::span<const int32_t> ids) {
  if (rule_.repetition_penalty == 1) return;
  for (const int32_t id : ids) {
    const size_t i = static_cast<size_t>(id);
    if (i >= is_seen_.size()) is_seen_.resize(i + 1);
    if (!is_seen_[i]) seen_.push_back(id);
    is_seen_[i] = true;
  }
}

int32_t TokenSampler::choose(const Tensor& logits, int64_t position) {
  check(logits.rows() == 1, "TokenSampler: expected logits of one token");
  p_.resize(static_cast<size_t>(logits.cols()));
  sampling_distribution(s_, Tensor(p_.data(), {1, logits.cols()}), logits, std::min(limit_, logits.cols()), rule_,
                        Tensor(seen_.data(), DType::i32, {static_cast<int64_t>(seen_.size())}));
  Rng noise(seed_, static_cast<uint64_t>(position));
  int32_t first = 0;
  double earliest = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < p_.size(); ++i) {
    const double p = static_cast<double>(p_[i]);
    if (!(p > 0)) continue;
    noise.set_counter(i);
    const double u = noise.uniform();
    if (u >= earliest * p) continue;  // E = -log(1 - u) >= u: too late, and the logarithm is saved
    const double arrival = -std::log1p(-u) / p;
    if (arrival >= earliest) continue;
    earliest = arrival;
    first = static_cast<int32_t>(i);
  }
  return first;
}

}  // namespace sluice
