// What the kernels of attention's backward pass on Hopper share (attention_wgmma_keys.cu, attention_wgmma_queries.cu).
#pragma once
#include "ops/cuda/attention_wgmma.cuh"
#include "ops/cuda/attention_wgmma_launch.h"

namespace sluice::cuda::wgmma_attention {

constexpr int kKeys = 128;  // of a tile of the gradient of scores

/// Of a query: log-sum-exp in powers of two, and d_o . o. Queries beyond the last have infinity and 0.
struct Stats {
  float lse, delta;
};

/// What the backward pass keeps in scratch memory: stats (heads of all sequences, queries in whole waves), and the
/// gradients of the scores without their scale, in tiles of 128 keys by 64 queries of the heads of this launch, as they
/// lie in shared memory: lines of 64 queries, swizzled. Tiles in which no key is seen are missing.
struct Backward {
  const Stats* stats;
  uint8_t* gradients;

  /// Tiles of a head before this wave.
  __host__ __device__ static int64_t tiles_before(int wave) {
    const int64_t pair = wave / 2;
    return (pair + wave % 2) * (pair + 1);
  }
  __device__ uint8_t* gradient(const Work& w, int head, int wave, int tile) const {
    return gradients + ((head - w.first_head) * tiles_before(w.waves()) + tiles_before(wave) + tile) * kPairBox;
  }
};

__device__ inline int key_tiles(const Work& w) { return (w.tokens + kKeys - 1) / kKeys; }

/// Of the backward pass's two parts the one that has to come first.
void backward_keys(cudaStream_t stream, const Work& w, const Backward& b, const Tensor& d_kv, float* d_rope_HTR,
                   const Tensor& d_o, const AttentionInputs& in, const AttentionShape& a);
void backward_queries(cudaStream_t stream, const Work& w, const Backward& b, const Tensor& d_q,
                      const AttentionInputs& in, const AttentionShape& a);

}  // namespace sluice::cuda::wgmma_attention
