// What the kernels of attention over the latent cache share.
#pragma once
#include <algorithm>

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

/// How long the splits are in which a row at `position` takes the positions up to its own: that depends on nothing
/// else, so that its bits do not either. Long rows have long splits, because a split's result is as large as the cached
/// rows of 2 x heads positions.
struct SplitRule {
  int64_t length, splits;              // positions before length x splits have splits of `length`
  int64_t grown_length, grown_splits;  // then up to so many of these
  int64_t longest;                     // and from there on

  __host__ __device__ int64_t length_at(int64_t position) const {
    if (position < length * splits) return length;
    return position < grown_length * grown_splits ? grown_length : longest;
  }
  __host__ __device__ int64_t splits_at(int64_t position) const { return position / length_at(position) + 1; }
  /// The most splits of a row before `positions`.
  int64_t most_splits(int64_t positions) const {
    int64_t most = splits_at(positions - 1);
    for (const int64_t end : {length * splits, grown_length * grown_splits})
      if (end > 0 && end < positions) most = std::max(most, splits_at(end - 1));
    return most;
  }
};
constexpr SplitRule equal_splits(int64_t length) { return {0, 0, 0, 0, length}; }

/// Room for the results of splits: unnormalised values, largest score, sum of exponentials.
struct Partial {
  float* u;      // (rows, heads, splits, latent)
  float2* sums;  // (rows, heads, splits)
  int64_t splits;
  SplitRule rule;
};

/// The rows whose latents are summed up: u (n, H latent) of queries qa (n, H (latent + rope)).
struct LatentRows {
  float* u;
  const float* qa;
  Tensor cache;
  Places places;
  int64_t n;
};

/// Whether the kernels on tensor cores are made for a cache of bf16 and heads of this size.
bool is_tensor_latent(const LatentShape& a);
constexpr int64_t kTensorSplit = 256;
/// Results of all splits.
void tensor_latent_splits(cudaStream_t s, const Partial& out, const LatentRows& x, const LatentShape& a);

/// Whether those on Hopper's own instructions are.
bool is_wgmma_latent(const LatentRows& x, const LatentShape& a);
SplitRule wgmma_latent_rule(const LatentShape& a);
/// u of rows that have one split, the results of the splits of others.
void wgmma_latent_splits(cudaStream_t s, const Partial& out, const LatentRows& x, const LatentShape& a);

/// cached (positions, latent + rope) = the cached rows of positions 0, 1, ... of a sequence.
void gather_cached(cudaStream_t s, __nv_bfloat16* cached, const Tensor& cache, const Tensor& pages_P, int64_t positions,
                   const LatentShape& a);
/// kv (positions, heads (nope + value)) = the keys and values of `heads` heads from h0 on, kv_b being bf16.
void expand_heads(cudaStream_t s, __nv_bfloat16* kv, const __nv_bfloat16* cached, int64_t positions, const Matrix& kv_b,
                  int64_t h0, int64_t heads, const LatentShape& a);

/// Whether the kernels on Hopper's own instructions are made for expanded heads of this size, and
/// infer_prompt_attention() by them.
bool is_wgmma_prompt(const LatentShape& a);
void wgmma_prompt_attention(Queue& queue, const Tensor& o, const Tensor& q, const Tensor& cache, const Tensor& pages_P,
                            int64_t begin, const Matrix& kv_b, const LatentShape& a);

/// Whether the kernels on tensor cores are made for expanded heads of this size.
bool is_tensor_prompt(const LatentShape& a);
/// infer_prompt_attention() with a cache and kv_b of bf16.
void tensor_prompt_attention(Queue& queue, const Tensor& o, const Tensor& q, const Tensor& cache, const Tensor& pages_P,
                             int64_t begin, const Matrix& kv_b, const LatentShape& a);

}  // namespace sluice::cuda
