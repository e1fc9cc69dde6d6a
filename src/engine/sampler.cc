#include "engine/sampler.h"

#include <algorithm>

namespace sluice {

TokenSampler::TokenSampler(Stream& s, const SamplingRule& rule, uint64_t seed, int64_t limit,
                           std::span<const LogitBias> bias)
    : s_(s),
      rule_(rule),
      seed_(seed),
      limit_(limit),
      counts_(rule.repetition_penalty != 1 || rule.frequency_penalty != 0 || rule.presence_penalty != 0) {
  for (const LogitBias& b : bias) {
    bias_ids_.push_back(b.id);
    biases_.push_back(b.bias);
  }
}

void TokenSampler::see(std::span<const int32_t> ids) {
  if (!counts_) return;
  for (const int32_t id : ids) count(id, 0);
}

void TokenSampler::add(int32_t id) {
  if (counts_) count(id, 1);
}

void TokenSampler::count(int32_t id, int32_t times) {
  const size_t i = static_cast<size_t>(id);
  if (i >= place_of_.size()) place_of_.resize(i + 1);
  if (place_of_[i] == 0) {
    seen_.push_back(id);
    times_.push_back(0);
    place_of_[i] = static_cast<int32_t>(seen_.size());
  }
  times_[static_cast<size_t>(place_of_[i]) - 1] += times;
}

namespace {

/// A view of a vector's elements, which ops only read.
template <class T>
Tensor vector_view(DType dtype, std::span<const T> v) {
  return Tensor(const_cast<T*>(v.data()), dtype, {static_cast<int64_t>(v.size())});
}

}  // namespace

std::optional<Draw> TokenSampler::plain_draw(int64_t position) const {
  if (counts_ || rule_.top_k > 0 || rule_.top_p < 1 || rule_.min_p > 0 || !bias_ids_.empty()) return std::nullopt;
  return Draw{rule_.temperature, limit_, Rng(seed_, static_cast<uint64_t>(position))};
}

int32_t TokenSampler::choose(const Tensor& logits, int64_t position, std::span<const uint64_t> allowed) {
  check(logits.rows() == 1, "TokenSampler: expected logits of one token");
  work_.resize(static_cast<size_t>(logits.cols()));
  SamplingState state;
  state.seen = vector_view(DType::i32, std::span<const int32_t>(seen_));
  state.counts = vector_view(DType::i32, std::span<const int32_t>(times_));
  state.bias_ids = vector_view(DType::i32, std::span<const int32_t>(bias_ids_));
  state.biases = vector_view(DType::f32, std::span<const float>(biases_));
  if (!allowed.empty()) state.allowed = vector_view(DType::i64, allowed);
  return draw(s_, Tensor(work_.data(), {1, logits.cols()}), logits, std::min(limit_, logits.cols()), rule_, state,
              Rng(seed_, static_cast<uint64_t>(position)));
}

}  // namespace sluice
