// Choice of tokens. All randomness depends on (seed, position) alone, position = index in the sequence of the token
// that is chosen.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/rng.h"
#include "base/stream.h"
#include "ops/sample.h"

namespace sluice {

class TokenSampler {
 public:
  /// Ids from `limit` on are never chosen. `s` must outlive the sampler.
  TokenSampler(Stream& s, const SamplingRule& rule, uint64_t seed, int64_t limit);

  /// Draws from logits (1, V) f32.
  int32_t choose(const Tensor& logits, int64_t position);

  /// Draws a proposal for `position` from the draft's logits (1, V) and keeps its distribution for verify().
  int32_t propose(const Tensor& logits, int64_t position);

  /// The token at `position`, given the model's logits and the proposal made for it: the proposal d with probability
  /// min(1, p(d) / q(d)), else a draw from max(0, p - q) (specification 4.3). Distributed as choose()'s result; at
  /// temperature 0 equal to it.
  int32_t verify(const Tensor& logits, int64_t position, int32_t proposal);

 private:
  std::span<const float> distribution(std::vector<float>& p, const Tensor& logits);

  Stream& s_;
  SamplingRule rule_;
  uint64_t seed_;
  int64_t limit_;
  std::vector<float> p_, q_;
};

}  // namespace sluice
