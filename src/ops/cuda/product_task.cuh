// Which part of a product a block computes.
#pragma once
#include "ops/cuda/kernel.cuh"
#include "ops/cuda/product.h"

namespace sluice::cuda {

/// Outputs [i, i_end) from row i on, contraction [k, k_end), first group of scales, and the expert.
struct ProductTask {
  int64_t i, i_end, k, k_end, group;
  int expert;
};

/// The launch of tiles of `rows` x `cols`: columns, rows and, where experts own the contraction, experts.
inline dim3 product_grid(const Product& p, int64_t rows, int64_t cols) {
  const int64_t row_tiles =
      p.offsets_E1 && !p.by_depth ? p.M / rows + p.experts : static_cast<int64_t>(blocks(p.M, rows));
  return dim3(blocks(p.N, cols), static_cast<unsigned>(row_tiles), static_cast<unsigned>(p.by_depth ? p.experts : 1));
}

/// The task of this block; false: there is none. Tile t of expert e is tile offsets[e] / rows + e + t. All threads
/// call.
__device__ inline bool find_task(ProductTask& t, const Product& p, int64_t rows) {
  const int64_t tile = blockIdx.y;
  if (p.by_depth) {
    t.expert = static_cast<int>(blockIdx.z);
    t.i = tile * rows, t.i_end = p.M, t.k = 0, t.k_end = p.K, t.group = 0;
    if (p.offsets_E1) {
      const int64_t begin = p.offsets_E1[t.expert];
      t.group = begin / 128 + t.expert;
      t.k = p.in_groups ? t.group * 128 : begin;
      t.k_end = t.k + p.offsets_E1[t.expert + 1] - begin;
    }
    return t.k < t.k_end;
  }
  t.k = 0, t.k_end = p.K, t.group = 0, t.expert = 0;
  if (!p.offsets_E1) {
    t.i = tile * rows, t.i_end = p.M;
    return true;
  }
  __shared__ int expert;
  if (threadIdx.x == 0) expert = -1;
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < p.experts; e += static_cast<int>(blockDim.x)) {
    const int64_t begin = p.offsets_E1[e], first = begin / rows + e;
    if (tile >= first && begin + (tile - first) * rows < p.offsets_E1[e + 1]) expert = e;
  }
  __syncthreads();
  t.expert = expert;
  if (expert < 0) return false;
  const int64_t begin = p.offsets_E1[expert];
  t.i = begin + (tile - begin / rows - expert) * rows;
  t.i_end = p.offsets_E1[expert + 1];
  return true;
}

/// y(i, j) (=|+=) v.
__device__ inline void store_output(const Product& p, void* y, int64_t i, int64_t j, float v) {
  if (p.y_is_f32) {
    float* out = static_cast<float*>(y) + i * p.ldy + j;
    *out = p.add ? *out + v : v;
  } else {
    half_t* out = static_cast<half_t*>(y) + i * p.ldy + j;
    store(out, p.add ? load(out) + v : v);
  }
}

}  // namespace sluice::cuda
