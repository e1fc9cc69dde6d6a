// What the kernels share: float32 values from and to f32 and bf16 memory, reductions, and the shapes of launches.
#pragma once
#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>

#include "base/cuda/queue.h"
#include "base/stream.h"
#include "base/tensor.h"

namespace sluice::cuda {

using half_t = __nv_bfloat16;

/// Rows of a tensor in a kernel.
template <class T>
struct Rows {
  T* data;
  int64_t ld;
  __device__ T* operator[](int64_t row) const { return data + row * ld; }
};
template <class T>
Rows<T> rows(const Tensor& t) {
  return {static_cast<T*>(t.data), t.ld};
}

__device__ inline float load(const float* p) { return *p; }
__device__ inline float load(const half_t* p) { return __bfloat162float(*p); }
__device__ inline void store(float* p, float v) { *p = v; }
__device__ inline void store(half_t* p, float v) { *p = __float2bfloat16_rn(v); }

/// Elements that are loaded and stored at once where addresses allow it.
constexpr int kVector = 8;

/// Whether all rows can be taken kVector elements at a time.
inline bool is_vector(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.ld % kVector == 0 && t.cols() % kVector == 0;
}
template <class... Tensors>
bool are_vectors(const Tensors&... t) {
  return (is_vector(t) && ...);
}

/// N elements: 1, or kVector at an address that is a multiple of 16 bytes.
template <int N>
__device__ inline void load_n(const float* p, float (&v)[N]) {
  if constexpr (N == 1) {
    v[0] = *p;
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 q = *reinterpret_cast<const float4*>(p + i);
      v[i] = q.x, v[i + 1] = q.y, v[i + 2] = q.z, v[i + 3] = q.w;
    }
  }
}
template <int N>
__device__ inline void load_n(const half_t* p, float (&v)[N]) {
  if constexpr (N == 1) {
    v[0] = load(p);
  } else {
    static_assert(N == kVector);
    const uint4 q = *reinterpret_cast<const uint4*>(p);
    const uint32_t word[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[2 * i] = __uint_as_float(word[i] << 16);
      v[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
    }
  }
}
template <int N>
__device__ inline void store_n(float* p, const float (&v)[N]) {
  if constexpr (N == 1) {
    *p = v[0];
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 4) *reinterpret_cast<float4*>(p + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
  }
}
template <int N>
__device__ inline void store_n(half_t* p, const float (&v)[N]) {
  if constexpr (N == 1) {
    store(p, v[0]);
  } else {
    static_assert(N == kVector);
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
      word[i] = *reinterpret_cast<const uint32_t*>(&pair);
    }
    *reinterpret_cast<uint4*>(p) = make_uint4(word[0], word[1], word[2], word[3]);
  }
}

/// Sum and largest value over a warp, in every lane.
__device__ inline float warp_sum(float v) {
#pragma unroll
  for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(~0u, v, o);
  return v;
}
__device__ inline float warp_max(float v) {
#pragma unroll
  for (int o = 16; o > 0; o /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
  return v;
}
/// The same over a block of whole warps, in every thread. All threads call.
template <class T>
__device__ inline T block_sum(T v) {
  __shared__ T part[32];
#pragma unroll
  for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(~0u, v, o);
  __syncthreads();  // the last call's values have been read
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  T total = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x / 32); ++w) total += part[w];
  return total;
}
__device__ inline float block_max(float v) {
  __shared__ float part[32];
  v = warp_max(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  float most = part[0];
  for (int w = 1; w < static_cast<int>(blockDim.x / 32); ++w) most = fmaxf(most, part[w]);
  return most;
}

inline unsigned blocks(int64_t n, int64_t per_block) { return static_cast<unsigned>((n + per_block - 1) / per_block); }

/// Threads of a block that goes over one row of `items` items.
inline unsigned row_threads(int64_t items, int64_t most = 512) {
  return static_cast<unsigned>(std::clamp<int64_t>((items + 31) / 32 * 32, 32, most));
}

/// A launch of short rows: a block takes several, each with some of its threads (threadIdx.x).
struct RowLaunch {
  dim3 grid, block;
  RowLaunch(int64_t rows, int64_t items) {
    const unsigned x = row_threads(items, 256);
    block = dim3(x, 256 / x);
    grid = dim3(blocks(rows, block.y));
  }
};

/// The row of a thread in a RowLaunch.
__device__ inline int64_t launch_row() { return static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; }

// Kernels of a pass over few rows take microseconds, and as long would one wait for the next to begin. Those that are
// launched early begin while the one before them runs, and wait for it themselves.

/// Until all kernels queued before this one are done; at once in a kernel that was not launched early. The first thing
/// that a kernel does but for reading weights.
__device__ inline void wait_for_previous() {
  asm volatile("griddepcontrol.launch_dependents;");  // the next one may begin: it waits, too
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

/// A launch of a kernel that calls wait_for_previous().
template <class... Parameters, class... Values>
void launch_early(cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                  Values&&... values) {
  cudaLaunchAttribute early;
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&config, kernel, Parameters(values)...), "launching a kernel");
}

/// After a launch: throws Error when it was refused.
inline void check_launch(const char* op) { check_cuda(cudaGetLastError(), op); }

}  // namespace sluice::cuda
