// What the kernels of packed products share: which rows a block computes, and its operands as an mma wants them.
// Lane (g, t) = 4 g + t has rows g and g + 8 of 16 of the weights, row g of 8 of the activations, and of 16 of k those
// of mma.sync and wgmma: 2 t, 2 t + 1, 2 t + 8, 2 t + 9.
#pragma once
#include "ops/cuda/kernel.cuh"
#include "ops/cuda/mma.cuh"
#include "ops/cuda/packed_product.h"
#include "ops/gpu_packed.h"

namespace sluice::cuda {

constexpr int kLaunchThreads = 256, kLaunchWarps = kLaunchThreads / 32;

/// Rows [begin, begin + count) of the activations, which are one expert's.
struct RowTile {
  int64_t begin;
  int count, expert;
  int64_t x_offset = 0, y_offset = 0;  // bytes, elements
};

/// The most tiles of `size` rows that there can be.
inline int64_t most_row_tiles(const PackedLaunch& p, int64_t size) {
  const int64_t whole = (p.rows + size - 1) / size;
  return p.offsets_E1 ? std::min(p.rows, p.rows / size + p.experts) : whole;
}

/// Tile `tile`, counting those of the first expert, then those of the second, and so on; false: there is none.
/// All threads call.
__device__ inline bool find_rows(RowTile& t, const PackedLaunch& p, int size, int tile) {
  t.expert = p.heads > 0 ? static_cast<int>(blockIdx.z) : 0;
  t.x_offset = t.expert * p.x_step;
  t.y_offset = t.expert * p.y_step;
  int64_t begin = 0, end = p.rows;
  if (p.offsets_E1) {
    __shared__ int32_t offset[kMostExperts + 1];
    __shared__ int found, tile_of;
    for (int e = static_cast<int>(threadIdx.x); e <= p.experts; e += kLaunchThreads)
      offset[e] = p.last_takes_rest && e == p.experts ? static_cast<int32_t>(p.rows) : p.offsets_E1[e];
    if (threadIdx.x == 0) found = -1;
    __syncthreads();
    if (threadIdx.x < 32) {
      int before = 0;
      for (int first = 0; first < p.experts && before <= tile; first += 32) {
        const int e = first + static_cast<int>(threadIdx.x);
        const int tiles = e < p.experts ? (offset[e + 1] - offset[e] + size - 1) / size : 0;
        int up_to = tiles;
#pragma unroll
        for (int o = 1; o < 32; o *= 2) {
          const int other = __shfl_up_sync(~0u, up_to, o);
          if (static_cast<int>(threadIdx.x) >= o) up_to += other;
        }
        if (tile < before + up_to && tile >= before + up_to - tiles)
          found = e, tile_of = tile - (before + up_to - tiles);
        before += __shfl_sync(~0u, up_to, 31);
      }
    }
    __syncthreads();
    if (found < 0) return false;
    t.expert = found;
    tile = tile_of;
    begin = offset[found];
    end = offset[found + 1];
  }
  t.begin = begin + static_cast<int64_t>(tile) * size;
  t.count = static_cast<int>(min(static_cast<int64_t>(size), end - t.begin));
  return t.count > 0;
}

/// Row `row` of the activations.
__device__ inline const char* source_row(const PackedLaunch& p, const PackedSide& side, const RowTile& t, int64_t row) {
  if (p.slot_of_R) row = row < p.slots ? p.slot_of_R[row] / p.top_k : row - p.slots;
  return side.x + t.x_offset + row * p.x_pitch;
}

/// The blocks of a launch: `tiles` of outputs, tiles of `size` rows.
inline dim3 product_grid(const PackedLaunch& p, int64_t tiles, int64_t size) {
  return dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(most_row_tiles(p, size)),
              static_cast<unsigned>(std::max(1, p.heads)));
}

/// Gives every matrix its blocks; the number of all.
inline unsigned place_tiles(PackedLaunch& p, int64_t cols) {
  int64_t tiles = 0;
  for (int i = 0; i < p.sides; ++i) {
    p.side[i].first_tile = static_cast<int>(tiles);
    tiles += (p.side[i].N + cols - 1) / cols;
  }
  return static_cast<unsigned>(tiles);
}

/// The matrix that block `tile` belongs to.
__device__ inline const PackedSide& find_side(const PackedLaunch& p, int tile) {
  int i = 0;
  while (i + 1 < p.sides && tile >= p.side[i + 1].first_tile) ++i;
  return p.side[i];
}

/// 16 rows x 64 columns of weights as they lie in memory.
template <class E>
struct WeightTile;
template <>
struct WeightTile<half_t> {
  static constexpr int64_t kBytes = kTileRows * kTileCols * 2;
  uint4 chunk[4];  // columns 0 to 7 of rows g and g + 8, then columns 8 to 15 of these
  __device__ void load(const char* tile) {
    const uint4* from = reinterpret_cast<const uint4*>(tile) + threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < 4; ++c) chunk[c] = __ldg(from + 32 * c);
  }
  /// Left side of mma j.
  __device__ void left(uint32_t (&a)[4], int j) const {
    const uint4 &low = chunk[j / 2 * 2], &high = chunk[j / 2 * 2 + 1];
    a[0] = j % 2 ? low.z : low.x;
    a[1] = j % 2 ? high.z : high.x;
    a[2] = j % 2 ? low.w : low.y;
    a[3] = j % 2 ? high.w : high.y;
  }
};

/// Codes 0 and 1, or 2 and 3, of a word as bf16: their bits are those of a bf16 that is 2^-120 of their value.
__device__ inline uint32_t decode_pair(uint32_t word, int pair) {
  const uint32_t codes = __byte_perm(word, 0, pair ? 0x3424 : 0x1404);
  const uint32_t bits = (codes & 0x80008000u) | (codes & 0x7f007f00u) >> 4;
  const uint32_t scale = 0x7b807b80u;  // 2^120, twice
  const __nv_bfloat162 value =
      __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&bits), *reinterpret_cast<const __nv_bfloat162*>(&scale));
  return *reinterpret_cast<const uint32_t*>(&value);
}

template <>
struct WeightTile<uint8_t> {
  static constexpr int64_t kBytes = kTileRows * kTileCols;
  uint4 chunk[2];  // rows g and g + 8
  __device__ void load(const char* tile) {
    const uint4* from = reinterpret_cast<const uint4*>(tile) + threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < 2; ++c) chunk[c] = __ldg(from + 32 * c);
  }
  __device__ void left(uint32_t (&a)[4], int j) const {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const uint4& c = chunk[row];
      const uint32_t word = j == 0 ? c.x : j == 1 ? c.y : j == 2 ? c.z : c.w;
      a[row] = decode_pair(word, 0);
      a[row + 2] = decode_pair(word, 1);
    }
  }
};

/// 64 columns of 8 rows of activations, as right sides of mma.
struct RowWords {
  uint32_t word[8];
  /// `row`: the first of the columns in this lane's row; null: zeros.
  __device__ void load(const char* row) {
    const uint32_t* from = reinterpret_cast<const uint32_t*>(row) + threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) word[i] = row ? from[4 * i] : 0u;
  }
  __device__ uint2 right(int j) const { return make_uint2(word[2 * j], word[2 * j + 1]); }
};

/// What a sum of 128 of k counts: the scale of FP8 weights, else 1.
__device__ inline float sum_scale(const PackedSide& side, const float* scales, int64_t row, int64_t group,
                                  int64_t groups) {
  return side.scales ? scales[row / kSumCols * groups + group] : 1.0f;
}

__device__ inline void store_output(const PackedSide& side, const RowTile& t, int row, int64_t col, float v) {
  float* out = side.y + t.y_offset + (t.begin + row) * side.ldy + col;
  *out = side.add ? *out + v : v;
}

/// The matrix of an expert, and its scales.
__device__ inline const char* expert_data(const PackedSide& side, int expert) {
  return static_cast<const char*>(side.data) + expert * side.stride;
}
__device__ inline const float* expert_scales(const PackedSide& side, int expert) {
  return side.scales ? reinterpret_cast<const float*>(reinterpret_cast<const char*>(side.scales) + expert * side.stride)
                     : nullptr;
}

}  // namespace sluice::cuda
