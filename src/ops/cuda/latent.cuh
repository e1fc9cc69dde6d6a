// What the kernels of attention over the latent cache share.
#pragma once
#include "ops/cuda/kernel.cuh"
#include "ops/infer.h"

namespace sluice::cuda {

struct Places {
  const int32_t *position_T, *sequence_T;
  Rows<const int32_t> pages_SP;
  /// Row of the cache that holds position p of the sequence of row t.
  __device__ int64_t row(int64_t t, int64_t p) const {
    return static_cast<int64_t>(pages_SP[sequence_T[t]][p / kPageTokens]) * kPageTokens + p % kPageTokens;
  }
};

/// Positions are taken in splits of `length`. Result of one: unnormalised values, largest score, sum of exponentials.
struct Partial {
  float* u;      // (rows, heads, splits, latent)
  float2* sums;  // (rows, heads, splits)
  int64_t splits, length;
};

/// Whether the kernels on tensor cores are made for a cache of bf16 and heads of this size.
bool is_tensor_latent(const LatentShape& a);
/// Positions of a split there.
constexpr int64_t kTensorSplit = 256;
/// Splits of `n` rows whose queries are qa (n, H (latent + rope)).
void tensor_latent_splits(cudaStream_t s, const Partial& out, const float* qa, const Tensor& cache,
                          const Places& places, int64_t n, const LatentShape& a);

/// Whether the kernels on tensor cores are made for expanded heads of this size.
bool is_tensor_prompt(const LatentShape& a);
/// infer_prompt_attention() with a cache and kv_b of bf16.
void tensor_prompt_attention(Queue& queue, const Tensor& o, const Tensor& q, const Tensor& cache, const Tensor& pages_P,
                             int64_t begin, const Matrix& kv_b, const LatentShape& a);

}  // namespace sluice::cuda
