// From logits to the distribution a token is drawn from.  T rows, V vocabulary; logits, p (T, V) f32, packed.
// Ids from `limit` on have no token (a vocabulary padded beyond its tokenizer) and get probability 0.
#pragma once
#include "base/stream.h"
#include "base/tensor.h"

namespace sluice {

/// The steps are taken in this order. Ties keep the lower id.
struct SamplingRule {
  float temperature = 1;  // 0: all probability on the largest logit
  int64_t top_k = 0;      // keep the k most probable; 0: all
  float top_p = 1;        // keep the most probable until they hold this share; in (0, 1]
};

/// ids_T (i32) = the lowest index of the largest of the first `limit` logits (1 <= limit <= V).
void argmax(Stream& s, Tensor ids_T, const Tensor& logits, int64_t limit);

/// p = the distribution under `rule`, normalised in float32. p may be logits' memory.
void sampling_distribution(Stream& s, Tensor p, const Tensor& logits, int64_t limit, const SamplingRule& rule);

namespace cpu {
decltype(sluice::argmax) argmax;
decltype(sluice::sampling_distribution) sampling_distribution;
}  // namespace cpu

}  // namespace sluice
