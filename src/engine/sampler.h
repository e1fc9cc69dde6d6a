// Choice of tokens. The token at a position is the first to arrive in an exponential race (equally: the largest of
// log p + Gumbel noise): id i arrives at E_i / p_i, where E_i ~ Exp(1) depends on (seed, position, i) alone. It has the
// distribution p, and two distributions that are close mostly choose the same token at the same position. So a draft is
// what a draft's distribution chooses there, it is accepted if the model's distribution chooses the same token, and the
// text does not depend on drafts at all. With d the total variation distance between the two, at least
// (1 - d) / (1 + d) of the drafts are accepted (arXiv:2408.07978).
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/stream.h"
#include "engine/engine.h"
#include "ops/sample.h"

namespace sluice {

/// Added to the logit of an id, before everything else.
struct LogitBias {
  int32_t id = 0;
  float bias = 0;
};

class TokenSampler {
 public:
  /// Ids from `limit` on are never chosen. `s` must outlive the sampler. Ids of `bias` are not negative.
  TokenSampler(Stream& s, const SamplingRule& rule, uint64_t seed, int64_t limit, std::span<const LogitBias> bias = {});

  /// These are in the prompt. Not negative.
  void see(std::span<const int32_t> ids);
  /// This was generated.
  void add(int32_t id);

  /// Whether choose() at `position` is a draw by temperature alone, and which.
  std::optional<Draw> plain_draw(int64_t position) const;

  /// The token at `position` (index in the sequence of the token that is chosen) by logits (1, V) f32. Of a draft they
  /// may be those of the first ids alone, among which it is chosen then. `allowed`, unless empty: bit id % 64 of word
  /// id / 64 says whether id may be chosen; 0 where none may. Samplers may choose at the same time, each on a thread of
  /// its own, tasks of the stream's pool included.
  int32_t choose(const Tensor& logits, int64_t position, std::span<const uint64_t> allowed = {});

 private:
  void count(int32_t id, int32_t times);

  Stream& s_;
  SamplingRule rule_;
  uint64_t seed_;
  int64_t limit_;
  bool counts_;  // whether the rule wants to know what is in the text
  std::vector<float> work_;
  std::vector<int32_t> seen_;      // ids of prompt and text, none twice
  std::vector<int32_t> times_;     // each of them was generated
  std::vector<int32_t> place_of_;  // by id, as far as ids were seen: 1 + its place in seen_, or 0
  std::vector<int32_t> bias_ids_;
  std::vector<float> biases_;
};

}  // namespace sluice
