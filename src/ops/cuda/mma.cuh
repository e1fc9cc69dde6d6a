// Tensor-core products of a warp: mma.sync m16n8k16 of 16-bit floats with float32 sums.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

namespace sluice::cuda {

/// Four 8 x 8 matrices of a tile in shared memory, rows `pitch` elements apart (an odd multiple of 8): (row, k),
/// (row + 8, k), (row, k + 8), (row + 8, k + 8). The left side of one mma, or the right sides of two: [0] and [2], [1]
/// and [3].
__device__ inline void load_along(uint32_t (&m)[4], const uint16_t* tile, int pitch, int row, int k) {
  const int lane = static_cast<int>(threadIdx.x) % 32, matrix = lane / 8;
  const uint16_t* at = tile + (row + matrix % 2 * 8 + lane % 8) * pitch + k + matrix / 2 * 8;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(at))));
}
/// The same of a tile that has k along its rows and `row` along its columns.
__device__ inline void load_across(uint32_t (&m)[4], const uint16_t* tile, int pitch, int row, int k) {
  const int lane = static_cast<int>(threadIdx.x) % 32, matrix = lane / 8;
  const uint16_t* at = tile + (k + matrix / 2 * 8 + lane % 8) * pitch + row + matrix % 2 * 8;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(at))));
}

/// c += a b: 16 x 8 outputs, 16 of k, of bf16.
__device__ inline void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// The same of half precision.
__device__ inline void multiply_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Row and column of element c of a thread's share of 16 x 8 outputs.
__device__ inline int mma_row(int c) { return static_cast<int>(threadIdx.x) % 32 / 4 + c / 2 * 8; }
__device__ inline int mma_col(int c) { return static_cast<int>(threadIdx.x) % 4 * 2 + c % 2; }

/// Two float32 numbers as bf16, the first in the lower half.
__device__ inline uint32_t pack_bf16(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
/// 16 x 16 outputs (two neighbours of 16 x 8) as the left side of the next product.
__device__ inline void as_left(uint32_t (&a)[4], const float (&c0)[4], const float (&c1)[4]) {
  a[0] = pack_bf16(c0[0], c0[1]);
  a[1] = pack_bf16(c0[2], c0[3]);
  a[2] = pack_bf16(c1[0], c1[1]);
  a[3] = pack_bf16(c1[2], c1[3]);
}

}  // namespace sluice::cuda
