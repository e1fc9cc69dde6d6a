// What the attention kernels on tensor cores share: tiles of heads in shared memory and products of a warp with them.
#pragma once
#include "ops/cuda/kernel.cuh"
#include "ops/cuda/mma.cuh"

namespace sluice::cuda {

constexpr int kAttentionThreads = 128, kAttentionPad = 8;

/// A row of a head in memory: `first` columns, then `second` ones.
struct HeadRow {
  const half_t *first, *second;
  int num_first, num_second;
};

/// Eight columns of a row from `c` on, 0 beyond its end.
__device__ inline uint4 columns(const HeadRow& r, int c, bool is_vector) {
  if (is_vector && c + 8 <= r.num_first) return *reinterpret_cast<const uint4*>(r.first + c);
  if (is_vector && c >= r.num_first && c + 8 <= r.num_first + r.num_second)
    return *reinterpret_cast<const uint4*>(r.second + c - r.num_first);
  uint32_t word[4] = {};
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const half_t* p = c + n < r.num_first                  ? r.first + c + n
                      : c + n < r.num_first + r.num_second ? r.second + c + n - r.num_first
                                                           : nullptr;
    if (p) word[n / 2] |= static_cast<uint32_t>(*reinterpret_cast<const uint16_t*>(p)) << (n % 2 * 16);
  }
  return make_uint4(word[0], word[1], word[2], word[3]);
}

/// tile[r] = row(first + r) for the rows that exist, 0 for others.
template <int kAll, int kCols, class Row>
__device__ void fill(uint16_t* tile, int first, int tokens, bool is_vector, Row row) {
  constexpr int kChunks = kCols / 8;
  for (int at = static_cast<int>(threadIdx.x); at < kAll * kChunks; at += kAttentionThreads) {
    const int r = at / kChunks, c = at % kChunks * 8;
    *reinterpret_cast<uint4*>(tile + r * (kCols + kAttentionPad) + c) =
        first + r < tokens ? columns(row(first + r), c, is_vector) : make_uint4(0, 0, 0, 0);
  }
}

/// c (16 x kN) = left (16 rows from `row` on) times right', both of kDepth columns.
template <int kN, int kDepth>
__device__ void products(float (&c)[kN / 8][4], const uint16_t* left, int row, const uint16_t* right) {
  constexpr int kPitch = kDepth + kAttentionPad;
#pragma unroll
  for (int n = 0; n < kN / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) c[n][i] = 0;
#pragma unroll
  for (int k = 0; k < kDepth; k += 16) {
    uint32_t a[4];
    load_along(a, left, kPitch, row, k);
#pragma unroll
    for (int n = 0; n < kN / 16; ++n) {
      uint32_t b[4];
      load_along(b, right, kPitch, 16 * n, k);
      multiply_bf16(c[2 * n], a, b[0], b[2]);
      multiply_bf16(c[2 * n + 1], a, b[1], b[3]);
    }
  }
}

/// c (16 x kN) += p (16 x kK, in registers) right (kK rows of kN columns).
template <int kK, int kN>
__device__ void accumulate(float (&c)[kN / 8][4], const float (&p)[kK / 8][4], const uint16_t* right) {
#pragma unroll
  for (int k = 0; k < kK; k += 16) {
    uint32_t a[4];
    as_left(a, p[k / 8], p[k / 8 + 1]);
#pragma unroll
    for (int n = 0; n < kN / 16; ++n) {
      uint32_t b[4];
      load_across(b, right, kN + kAttentionPad, 16 * n, k);
      multiply_bf16(c[2 * n], a, b[0], b[2]);
      multiply_bf16(c[2 * n + 1], a, b[1], b[3]);
    }
  }
}

/// Sum or largest value over the four lanes that share a row of outputs.
__device__ inline float row_sum(float v) {
  v += __shfl_xor_sync(~0u, v, 1);
  return v + __shfl_xor_sync(~0u, v, 2);
}
__device__ inline float row_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
  return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
}

template <class Kernel>
void allow_shared(Kernel kernel, int bytes) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "attention's shared memory");
}

}  // namespace sluice::cuda
