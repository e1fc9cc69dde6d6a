// The sums of a wave to memory (product_wgmma.cu).
#pragma once
#include "ops/cuda/wgmma_tile.cuh"

namespace sluice::cuda {

/// v[j] of lane i of a quad becomes v[i] of lane j.
__device__ __forceinline__ void transpose_quad(uint32_t (&v)[4], int lane) {
  const auto swap = [&](uint32_t& low, uint32_t& high, int bit) {
    const bool is_high = lane & bit;
    const uint32_t got = __shfl_xor_sync(0xffffffffu, is_high ? low : high, bit);
    low = is_high ? got : low;
    high = is_high ? high : got;
  };
  swap(v[0], v[1], 1), swap(v[2], v[3], 1);
  swap(v[0], v[2], 2), swap(v[1], v[3], 2);
}

/// A row's share of a wave, in bf16: eight columns of each thread at once.
__device__ __forceinline__ void store_row(half_t* y, const Sums& sum, int half, int cols, int lane, bool is_row) {
#pragma unroll
  for (int n = 0; n < kCols / 8; n += 4) {
    uint32_t v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(sum[4 * (n + j) + half], sum[4 * (n + j) + half + 1]);
      v[j] = *reinterpret_cast<const uint32_t*>(&pair);
    }
    transpose_quad(v, lane);
    const int col = 8 * (n + lane % 4);
    if (is_row && col < cols) *reinterpret_cast<uint4*>(y + col) = make_uint4(v[0], v[1], v[2], v[3]);
  }
}

/// The same for float32, and where y is added to.
template <class T>
__device__ __forceinline__ void store_row(T* y, const Sums& sum, int half, int cols, int lane, bool is_row, bool add) {
  if (!is_row) return;
#pragma unroll
  for (int n = 0; n < kCols / 8; ++n) {
    const int col = 8 * n + lane % 4 * 2;
    if (col >= cols) continue;
    float left = sum[4 * n + half], right = sum[4 * n + half + 1];
    if constexpr (sizeof(T) == 4) {
      float2* at = reinterpret_cast<float2*>(y + col);
      const float2 old = add ? *at : make_float2(0, 0);
      *at = add ? make_float2(old.x + left, old.y + right) : make_float2(left, right);
    } else {
      __nv_bfloat162* at = reinterpret_cast<__nv_bfloat162*>(y + col);
      const float2 old = __bfloat1622float2(*at);
      *at = __floats2bfloat162_rn(old.x + left, old.y + right);
    }
  }
}

__device__ __forceinline__ void store_wave(const Product& p, const Tile& t, const Role& role, const Sums& sum,
                                           int wave) {
  int row = t.row + role.wave_row(wave) + role.thread_row();
  void* y = p.y ? p.y : p.bank.data[t.expert];
  const int cols = static_cast<int>(p.N) - t.col;
#pragma unroll
  for (int half = 0; half < 4; half += 2, row += 8) {
    const int64_t at = row * p.ldy + t.col;
    const bool is_row = row < t.row_end;
    if (p.y_is_f32)
      store_row(static_cast<float*>(y) + at, sum, half, cols, role.lane, is_row, p.add);
    else if (p.add)
      store_row(static_cast<half_t*>(y) + at, sum, half, cols, role.lane, is_row, true);
    else
      store_row(static_cast<half_t*>(y) + at, sum, half, cols, role.lane, is_row);
  }
}

}  // namespace sluice::cuda
