// From logits to the distribution a token is drawn from.  T rows, V vocabulary; logits, p (T, V) f32, packed.
// Ids from `limit` on have no token (a vocabulary padded beyond its tokenizer) and get probability 0.
#pragma once
#include "base/stream.h"
#include "base/tensor.h"

namespace sluice {

/// The steps are taken in this order: repetition penalty, temperature, top-k, top-p, min-p. Each cut looks at what the
/// one before it left. Ties keep the lower id.
struct SamplingRule {
  float temperature = 1;  // 0: all probability on the largest logit
  int64_t top_k = 0;      // keep the k most probable; 0: all
  float top_p = 1;        // keep the most probable until they hold this share; in (0, 1]
  float min_p = 0;        // keep those at least this many times as probable as the most probable; in [0, 1]
  // Logits of the tokens seen are divided by it where positive and multiplied by it where negative (arXiv:1909.05858 as
  // transformers and vLLM implement it); positive, 1: no change.
  float repetition_penalty = 1;
  // Subtracted from the logits of the tokens generated: the first once per occurrence, the second once (as OpenAI
  // defines them); 0: no change.
  float frequency_penalty = 0, presence_penalty = 0;
};

/// ids_T (i32) = the lowest index of the largest of the first `limit` logits (1 <= limit <= V).
void argmax(Stream& s, Tensor ids_T, const Tensor& logits, int64_t limit);

/// p = the distribution under `rule`, normalised in float32. `seen` (i32): the ids that the repetition penalty is for,
/// not negative, none twice, of which those from V on change nothing; empty: none. p may be logits' memory.
void sampling_distribution(Stream& s, Tensor p, const Tensor& logits, int64_t limit, const SamplingRule& rule,
                           const Tensor& seen = {});

namespace cpu {
decltype(sluice::argmax) argmax;
decltype(sluice::sampling_distribution) sampling_distribution;
}  // namespace cpu

}  // namespace sluice
