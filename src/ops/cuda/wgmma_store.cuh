// The sums of a wave to memory (product_wgmma.cu): through shared memory, from where the copy engine takes them while
// the next tile is multiplied.
#pragma once
#include "ops/cuda/wgmma_tile.cuh"

namespace sluice::cuda {

/// The 16 rows of a warp in bf16, to its part of shared memory.
__device__ __forceinline__ void stage_halves(uint8_t* staged, const Sums& sum, int lane) {
  uint8_t* row = staged + (lane / 8 % 2 * 8 + lane % 8) * kHalfPitch + lane / 16 * 16;
#pragma unroll
  for (int n = 0; n < kCols / 8; n += 2) {
    uint32_t m[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(sum[4 * n + 2 * j], sum[4 * n + 2 * j + 1]);
      m[j] = *reinterpret_cast<const uint32_t*>(&pair);
    }
    hopper::store_matrices(hopper::shared_address(row + 16 * n), m);
  }
}

/// Rows `half` / 2 * 8 to + 7 of a warp in float32.
__device__ __forceinline__ void stage_floats(uint8_t* staged, const Sums& sum, int half, int lane) {
  uint8_t* at = staged + lane / 4 * kFloatPitch + lane % 4 * 8;
#pragma unroll
  for (int n = 0; n < kCols / 8; ++n)
    *reinterpret_cast<float2*>(at + 32 * n) = make_float2(sum[4 * n + half], sum[4 * n + half + 1]);
}

/// bf16 that is added to: rounded once, so that it must pass through registers.
__device__ __forceinline__ void add_row(half_t* y, const Sums& sum, int half, int cols, int lane) {
#pragma unroll
  for (int n = 0; n < kCols / 8; ++n) {
    const int col = 8 * n + lane % 4 * 2;
    if (col >= cols) continue;
    __nv_bfloat162* at = reinterpret_cast<__nv_bfloat162*>(y + col);
    const float2 old = __bfloat1622float2(*at);
    *at = __floats2bfloat162_rn(old.x + sum[4 * n + half], old.y + sum[4 * n + half + 1]);
  }
}

/// Queues the rows of a warp: row `first` of the product is the first of `staged`. Lanes below `rows` have one each.
__device__ __forceinline__ void send_rows(const Product& p, const Tile& t, void* y, const uint8_t* staged, int first,
                                          int rows, int lane) {
  hopper::publish_to_engines();
  __syncwarp();
  const int row = first + lane, cols = min(kCols, static_cast<int>(p.N) - t.col);
  if (lane < rows && row < t.row_end && cols > 0) {
    const int size = p.y_is_f32 ? 4 : 2;
    uint8_t* to = static_cast<uint8_t*>(y) + (row * p.ldy + t.col) * size;
    const uint8_t* from = staged + lane * (p.y_is_f32 ? kFloatPitch : kHalfPitch);
    if (p.add)
      hopper::add_floats(to, from, static_cast<uint32_t>(cols * size));
    else
      hopper::store_bytes(to, from, static_cast<uint32_t>(cols * size));
  }
  hopper::commit_stores();
}

/// Shared memory may be written again: what was sent before has been read.
__device__ __forceinline__ void await_sent() {
  hopper::wait_for_reads_of_stores<0>();
  __syncwarp();
}

__device__ __forceinline__ void store_wave(const Product& p, const Tile& t, const Role& role, const Sums& sum, int wave,
                                           uint8_t* staged) {
  const int first = t.row + role.wave_row(wave) + role.warp * 16;
  void* y = p.y ? p.y : p.bank.data[t.expert];
  if (p.y_is_f32) {
#pragma unroll
    for (int half = 0; half < 4; half += 2) {
      await_sent();
      stage_floats(staged, sum, half, role.lane);
      send_rows(p, t, y, staged, first + 4 * half, 8, role.lane);
    }
  } else if (!p.add) {
    await_sent();
    stage_halves(staged, sum, role.lane);
    send_rows(p, t, y, staged, first, 16, role.lane);
  } else {
    const int cols = static_cast<int>(p.N) - t.col;
#pragma unroll
    for (int half = 0; half < 4; half += 2) {
      const int row = first + role.lane / 4 + 4 * half;
      if (row < t.row_end) add_row(static_cast<half_t*>(y) + row * p.ldy + t.col, sum, half, cols, role.lane);
    }
  }
}

}  // namespace sluice::cuda
