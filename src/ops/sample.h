// From logits to the distribution a token is drawn from.  T rows, V vocabulary; logits, p (T, V) f32, packed.
// Ids from `limit` on have no token (a vocabulary padded beyond its tokenizer) and get probability 0.
// A row that has NaN, of a model that is broken, yields some id below `limit`, and a distribution that may have NaN.
#pragma once
#include "base/rng.h"
#include "base/stream.h"
#include "base/tensor.h"

namespace sluice {

/// The steps are taken in this order: bias, repetition penalty, frequency and presence penalty, what is not allowed,
/// temperature, top-k, top-p, min-p. Each cut looks at what the one before it left. Ties keep the lower id.
struct SamplingRule {
  float temperature = 1;  // 0: all probability on the largest logit
  int64_t top_k = 0;      // keep the k most probable; 0: all
  float top_p = 1;        // keep the most probable until they hold this share; in (0, 1]
  float min_p = 0;        // keep those at least this many times as probable as the most probable; in [0, 1]
  // Logits of the tokens seen are divided by it where positive and multiplied by it where negative (arXiv:1909.05858 as
  // transformers and vLLM implement it); positive, 1: no change.
  float repetition_penalty = 1;
  // Subtracted from the logits of the tokens generated: the first once per occurrence, the second once (as OpenAI's API
  // defines them); 0: no change.
  float frequency_penalty = 0, presence_penalty = 0;
};

/// What a distribution depends on besides logits and rule. Ids are not negative; those from V on change nothing. Each
/// part may be empty.
struct SamplingState {
  Tensor seen;      // (N) i32: ids of prompt and text, none twice: what the repetition penalty is for
  Tensor counts;    // (N) i32: how often each of them was generated: what the other penalties are for
  Tensor bias_ids;  // (B) i32
  Tensor biases;    // (B) f32, added to the logits of bias_ids
  Tensor allowed;   // (limit / 64, rounded up) i64: bit id % 64 of word id / 64 says whether id may have probability
};

/// ids_T (i32) = the lowest index of the largest of the first `limit` logits (1 <= limit <= V).
void argmax(Stream& s, Tensor ids_T, const Tensor& logits, int64_t limit);

/// p = the distribution under `rule` and `state`, the same for all rows, normalised in float32; all 0 where nothing is
/// allowed. p may be logits' memory.
void sampling_distribution(Stream& s, Tensor p, const Tensor& logits, int64_t limit, const SamplingRule& rule,
                           const SamplingState& state = {});

/// The first 32 bits of u_i, below: two rounds of multiplication and shifts, so that the u_i of all ids, which are
/// mostly too large to matter, cost little. `key`: of the noise.
constexpr uint32_t noise_head(uint64_t key, uint32_t i) {
  uint32_t x = i ^ static_cast<uint32_t>(key);
  x = (x ^ x >> 16) * 0x21f0aaadu;
  x = (x ^ x >> 15 ^ static_cast<uint32_t>(key >> 32)) * 0x735a2d97u;
  return x ^ x >> 15;
}

/// u_i of a noise: uniform in [0, 1), 53 bits, a function of its key and i.
constexpr double noise_uniform(uint64_t key, uint32_t i) {
  const uint64_t rest = mix64(key ^ mix64(i)) >> 43;
  return static_cast<double>(uint64_t{noise_head(key, i)} << 21 | rest) * 0x1p-53;
}

/// The id i that arrives first, at E_i / p_i, where p is what sampling_distribution makes of logits (1, V), and E_i =
/// -log(1 - u_i) with u_i of `noise`; of equal ones the lower; 0 where nothing is allowed. Cheaper than to make p:
/// without top_k, most winners of a race of all ids are among those that the cuts leave, and are the winners there too.
/// `work` (1, V) f32 is overwritten. In the host's memory, on the caller's thread.
int32_t draw(Stream& s, Tensor work, const Tensor& logits, int64_t limit, const SamplingRule& rule,
             const SamplingState& state, const Rng& noise);

/// total_T (f32) = log sum exp of each row: a logit less it is the log probability of its id.
void log_sum_exp(Stream& s, Tensor total_T, const Tensor& logits);

namespace cpu {
decltype(sluice::argmax) argmax;
decltype(sluice::sampling_distribution) sampling_distribution;
decltype(sluice::draw) draw;
decltype(sluice::log_sum_exp) log_sum_exp;
}  // namespace cpu
namespace cuda {
decltype(sluice::argmax) argmax;
decltype(sluice::sampling_distribution) sampling_distribution;
decltype(sluice::log_sum_exp) log_sum_exp;
}  // namespace cuda

}  // namespace sluice
