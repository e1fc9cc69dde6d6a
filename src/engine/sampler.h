// Choice of tokens. The token at a position is the first to arrive in an exponential race (equally: the largest of
// log p + Gumbel noise): id i arrives at E_i / p_i, where E_i ~ Exp(1) depends on (seed, position, i) alone. It has the
// distribution p, and two distributions that are close mostly choose the same token at the same position. So a draft is
// what a draft's distribution chooses there, it is accepted if the model's distribution chooses the same token, and the
// text does not depend on drafts at all. With d the total variation distance between the two, at least
// (1 - d) / (1 + d) of the drafts are accepted (arXiv:2408.07978).
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/stream.h"
#include "ops/sample.h"

namespace sluice {

/// Added to the logit of an id, before everything else.
struct LogitBias {
  int32_t id = 0;
  float bias = 0;
};

class TokenSampler {
 public:
  /// Ids from `limit` on are never chosen. `s` must outlive the sampler.
  TokenSampler(Stream& s, const SamplingRule& rule, uint64_t seed, int64_t limit);

  /// These are in the text from now on: what the repetition penalty is for. Not negative.
  void see(std::span<const int32_t> ids);

  /// The token at `position` (index in the sequence of the token that is chosen) by logits (1, V) f32. Of a draft they
  /// may be those of the first ids alone, among which it is chosen then.
  int32_t choose(const Tensor& logits, int64_t position);

 private:
  Stream& s_;
  SamplingRule rule_;
  uint64_t seed_;
  int64_t limit_;
  std::vector<float> p_;
  std::vector<int32_t> seen_;  // none twice
  std::vector<bool> is_seen_;  // by id, as far as ids were seen
};

}  // namespace sluice
