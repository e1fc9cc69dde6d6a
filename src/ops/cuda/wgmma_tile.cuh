// Which tile of outputs a block computes next, and what is shared by those who work on it (product_wgmma.cu).
#pragma once
#include "ops/cuda/fp8.cuh"
#include "ops/cuda/hopper.cuh"
#include "ops/cuda/kernel.cuh"
#include "ops/cuda/product.h"

namespace sluice::cuda {

using hopper::Sums;

constexpr int kWarpgroup = 128, kMultipliers = 2, kThreads = (kMultipliers + 1) * kWarpgroup;
constexpr int kWave = 64, kCols = 128, kLine = 128;  // rows and columns of outputs; bytes
constexpr int kBandRows = 2048;                      // rows that are taken for all columns before the next ones

/// One kernel. E: bf16, or uint8_t for codes.
template <class E, int kWaves_, int kCluster_, bool kAlongA_, bool kAlongB_, bool kColumnScales_>
struct Config {
  using Element = E;
  static constexpr int kWaves = kWaves_, kCluster = kCluster_;
  static constexpr bool kAlongA = kAlongA_, kAlongB = kAlongB_, kColumnScales = kColumnScales_;
  static constexpr bool kByDepth = kColumnScales || !kAlongA, kIsFp8 = sizeof(E) == 1;
  static constexpr int kRows = kMultipliers * kWave * kWaves, kDepth = kLine / static_cast<int>(sizeof(E));
  static constexpr int kStages = (kWaves == 1 ? 6 : 4) - kColumnScales;
  static constexpr uint32_t kBytesA = kRows * kLine, kBytesB = kCols * kLine;
};

// What a warp's sums pass through on their way to memory: 16 rows of bf16 or 8 of float32. Rows are padded so that no
// bank is met twice.
constexpr int kHalfPitch = kCols * 2 + 16, kFloatPitch = kCols * 4 + 32, kStagedBytes = 16 * kHalfPitch;
static_assert(8 * kFloatPitch <= kStagedBytes);

template <class C>
struct Shared {
  uint8_t a[C::kStages][C::kBytesA];
  uint8_t b[C::kStages][C::kBytesB];
  uint8_t staged[kMultipliers * kWarpgroup / 32][kStagedBytes];
  float scale_b[C::kColumnScales ? C::kStages : 1][kCols];
  uint64_t full[C::kStages], empty[C::kStages];
};
constexpr size_t kAlignment = 1024;  // of tiles with swizzled lines

/// A tile: rows from `row` on, of which those below row_end exist, columns from `col` on; `depth` of k from `k` on,
/// whose scales begin at `group`.
struct Tile {
  int expert, row, row_end, col, k, depth, group;
};
template <class C>
__device__ __forceinline__ int steps(const Tile& t) {
  return (t.depth + C::kDepth - 1) / C::kDepth;
}

/// The tiles of this cluster: every (number of clusters)th of all, expert by expert. As few numbers as can be: they are
/// kept beside the sums.
template <class C>
class Tiles {
 public:
  explicit __device__ Tiles(const Product& p) : p_(p), at_(static_cast<int>(blockIdx.x) / C::kCluster) {}

  __device__ bool next(Tile& t) {
    const int col_tiles = ceil_div(static_cast<int>(p_.N), kCols * C::kCluster);
    int begin, end, row_tiles;  // the expert's rows, or its part of k
    for (;;) {
      begin = p_.offsets_E1 ? __ldg(p_.offsets_E1 + expert_) : 0;
      end = p_.offsets_E1 ? __ldg(p_.offsets_E1 + expert_ + 1) : static_cast<int>(C::kByDepth ? p_.K : p_.M);
      row_tiles = begin < end ? ceil_div(C::kByDepth ? static_cast<int>(p_.M) : end - begin, C::kRows) : 0;
      if (at_ < row_tiles * col_tiles) break;
      at_ -= row_tiles * col_tiles;
      if (++expert_ == static_cast<int>(p_.experts)) return false;
    }
    constexpr int kBand = kBandRows / C::kRows;
    const int band = at_ / (kBand * col_tiles), height = min(kBand, row_tiles - band * kBand);
    const int in_band = at_ - band * kBand * col_tiles;
    const int group = C::kByDepth ? begin / kGroup + expert_ : 0;
    t.expert = expert_;
    t.row = (C::kByDepth ? 0 : begin) + (band * kBand + in_band % height) * C::kRows;
    t.row_end = C::kByDepth ? static_cast<int>(p_.M) : end;
    t.col = (in_band / height * C::kCluster + static_cast<int>(blockIdx.x) % C::kCluster) * kCols;
    t.group = group;
    t.k = !C::kByDepth ? 0 : C::kIsFp8 ? group * kGroup : begin;
    t.depth = C::kByDepth ? end - begin : static_cast<int>(p_.K);
    at_ += static_cast<int>(gridDim.x) / C::kCluster;
    return true;
  }

 private:
  static __device__ int ceil_div(int n, int by) { return (n + by - 1) / by; }

  const Product& p_;
  int at_, expert_ = 0;
};

/// Stage and parity of the next step.
template <int kStages>
struct Place {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

/// What a thread of a multiplying warpgroup knows of its place.
struct Role {
  int group, warp, lane;
  __device__ Role()
      : group(__shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpgroup, 0)),  // one number for the warp
        warp(static_cast<int>(threadIdx.x) % kWarpgroup / 32),
        lane(static_cast<int>(threadIdx.x) % 32) {}
  /// First row of a wave of this warpgroup, and this thread's first row in it.
  __device__ int wave_row(int wave) const { return (wave * kMultipliers + group) * kWave; }
  __device__ int thread_row() const { return warp * 16 + lane / 4; }
  template <class C>
  __device__ uint8_t* staged(Shared<C>& s) const {
    return s.staged[group * (kWarpgroup / 32) + warp];
  }
};

}  // namespace sluice::cuda
