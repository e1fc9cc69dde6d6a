// The largest element of a row and where it is.
#pragma once
#include "ops/cuda/kernel.cuh"

namespace sluice::cuda {

struct Largest {
  float value;
  int index;
};

/// The larger one; of equals the one with the lower index. NaN is larger than nothing.
__device__ inline Largest larger(Largest a, Largest b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

/// The largest of x[0..n), the lowest index on ties; -inf at index 0 where all are NaN. A block of whole warps; the
/// result is in every thread.
__device__ inline Largest block_largest(const float* x, int64_t n) {
  __shared__ Largest part[32];
  Largest best{-INFINITY, INT_MAX};
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) best = larger(best, {x[i], static_cast<int>(i)});
#pragma unroll
  for (int o = 16; o > 0; o /= 2)
    best = larger(best, {__shfl_xor_sync(~0u, best.value, o), __shfl_xor_sync(~0u, best.index, o)});
  __syncthreads();
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = best;
  __syncthreads();
  best = part[0];
  for (int w = 1; w < static_cast<int>(blockDim.x / 32); ++w) best = larger(best, part[w]);
  if (best.index == INT_MAX) best.index = 0;
  return best;
}

}  // namespace sluice::cuda
