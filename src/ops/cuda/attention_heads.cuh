// The gradient of the key part that all heads share.
#pragma once
#include "ops/cuda/kernel.cuh"

namespace sluice::cuda {

template <class T>
__global__ void add_heads(Rows<T> dk_rope, const float* d_rope_HTR, int64_t n, int64_t rope, int64_t heads) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= n * rope) return;
  float total = 0;
  for (int64_t h = 0; h < heads; ++h) total += d_rope_HTR[h * n * rope + at];
  store(dk_rope[at / rope] + at % rope, total);
}

/// dk_rope (T, rope) = the sum of the heads' shares (H, T, rope), head by head.
template <class T>
void sum_heads(cudaStream_t stream, const Tensor& dk_rope, const float* d_rope_HTR, int64_t heads) {
  constexpr int kThreads = 256;
  const int64_t n = dk_rope.rows(), rope = dk_rope.cols();
  add_heads<T><<<blocks(n * rope, kThreads), kThreads, 0, stream>>>(rows<T>(dk_rope), d_rope_HTR, n, rope, heads);
}

}  // namespace sluice::cuda
