// How the kernels of packed products cut their work into tiles, and how results are written. Included once per target.
#if defined(SLUICE_OPS_CPU_PACKED_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SLUICE_OPS_CPU_PACKED_TILES_INL_H_
#undef SLUICE_OPS_CPU_PACKED_TILES_INL_H_
#else
#define SLUICE_OPS_CPU_PACKED_TILES_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "hwy/highway.h"
#include "ops/cpu/packed_block.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F = hn::ScalableTag<float>;
using VF = hn::Vec<F>;

inline int64_t lanes() { return static_cast<int64_t>(hn::Lanes(F())); }

/// Bytes by which weights are read ahead: with few rows of x memory is what limits, and the processor's own guesses are
/// late.
constexpr int64_t kAhead = 4096;

/// How far to read ahead at `offset` of each of G neighbouring groups: behind their end come the next G.
template <int G>
HWY_INLINE int64_t ahead_of(int64_t offset, int64_t group_bytes) {
  return kAhead + (offset + kAhead < group_bytes ? 0 : (G - 1) * group_bytes);
}

/// Writes the outputs of one row of x and one group, of which `outs` exist.
HWY_INLINE void put(VF v, float* y, int64_t outs, bool add) {
  if (outs >= lanes()) {
    hn::StoreU(add ? hn::Add(hn::LoadU(F(), y), v) : v, F(), y);
    return;
  }
  float part[HWY_MAX_BYTES / sizeof(float)] = {};
  hn::StoreU(v, F(), part);
  for (int64_t j = 0; j < outs; ++j) y[j] = add ? y[j] + part[j] : part[j];
}

template <int G, class Tile>
HWY_INLINE void run_few(const Tile& tile, int64_t rows, int64_t row, int64_t group) {
  switch (rows) {
    case 1:
      return tile.template run<1, G>(row, group);
    case 2:
      return tile.template run<2, G>(row, group);
    case 3:
      return tile.template run<3, G>(row, group);
  }
}

/// Calls tile.template run<M, G>(row, group) for tiles of M rows of x and G groups that cover the job: many rows share
/// a group; few rows take two groups at once, for more sums at a time.
template <class Tile>
HWY_INLINE void for_each_tile(const PackedJob& job, const Tile& tile) {
  constexpr int kRows = HWY_TARGET <= HWY_AVX3 ? 8 : 4;  // sums and a vector of codes fit the registers
  const int64_t many = job.rows / kRows * kRows, few = many + (job.rows - many) / 4 * 4;
  for (int64_t g = 0; g < job.groups; ++g) {
    for (int64_t row = 0; row < many; row += kRows) tile.template run<kRows, 1>(row, g);
    for (int64_t row = many; row < few; row += 4) tile.template run<4, 1>(row, g);
  }
  int64_t g = 0;
  for (; g + 2 <= job.groups; g += 2) run_few<2>(tile, job.rows - few, few, g);
  if (g < job.groups) run_few<1>(tile, job.rows - few, few, g);
}

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
