#include "ops/cpu/linear_fp8.h"

#include <algorithm>
#include <utility>

#include "ops/cpu/fp8_tile.h"
#include "ops/cpu/gemm_f32.h"

namespace sluice::cpu {
namespace {

// An output tile and the tiles of codes behind it fit a core's second-level cache.
constexpr int64_t kTileRows = 128, kTileCols = 256;
static_assert(kTileRows % kFp8Group == 0 && kTileCols % kFp8Group == 0);

/// One operand's share of a block of the contraction: code values and the scale of each row (left) or column (right)
/// of the output.
struct Operand {
  Fp8Tile codes;
  float* scale;
};

/// Whether each operand lies with the contraction along its rows (T) or columns.
struct Layout {
  bool trans_left, trans_right;
};

/// y (=|+=) left right, over a contraction of `depth`. left(operand, first, depth, row) and right(operand, first,
/// depth, col) fill operand.codes and .scale for elements [first, first + depth) of the contraction; the tiles are
/// sized.
template <class Left, class Right>
void product(Stream& s, const Tensor& y, Out out, int64_t depth, Layout layout, Left&& left, Right&& right) {
  const int64_t across = (y.cols() + kTileCols - 1) / kTileCols, down = (y.rows() + kTileRows - 1) / kTileRows;
  s.pool().run(across * down, [&](int64_t task, int thread) {
    const int64_t row = task / across * kTileRows, rows = std::min(kTileRows, y.rows() - row);
    const int64_t col = task % across * kTileCols, cols = std::min(kTileCols, y.cols() - col);
    float* p = s.scratch(thread, 2 * kTileRows * kTileCols + (kTileRows + kTileCols) * (kFp8Group + 1));
    const auto take = [&p](int64_t count) { return std::exchange(p, p + count); };
    const Fp8Tile sum{take(kTileRows * kTileCols), rows, cols, kTileCols};
    const Fp8Tile partial{take(kTileRows * kTileCols), rows, cols, kTileCols};
    float *a = take(kTileRows * kFp8Group), *b = take(kTileCols * kFp8Group);
    float *row_scale = take(kTileRows), *column_scale = take(kTileCols);
    std::fill_n(sum.data, rows * kTileCols, 0.0f);
    for (int64_t k = 0; k < depth; k += kFp8Group) {
      const int64_t n = std::min(kFp8Group, depth - k);
      const Fp8Tile ta = layout.trans_left ? Fp8Tile{a, n, rows, kTileRows} : Fp8Tile{a, rows, n, kFp8Group};
      const Fp8Tile tb = layout.trans_right ? Fp8Tile{b, cols, n, kFp8Group} : Fp8Tile{b, n, cols, kTileCols};
      left(Operand{ta, row_scale}, k, row);
      right(Operand{tb, column_scale}, k, col);
      gemm_f32({rows, cols, n}, {ta.data, ta.ld, layout.trans_left}, {tb.data, tb.ld, layout.trans_right}, 0.0f,
               partial.data, partial.ld);
      fp8_promote(sum, partial, row_scale, column_scale);
    }
    fp8_store(y, row, col, sum, out == Out::add);
  });
}

/// x's elements [first, first + depth) of the rows from `row`, one scale per row.
void fill_rows(const Operand& o, const Tensor& x, int64_t row, int64_t first) {
  fp8_load(o.codes, x, row, first);
  fp8_quantize_rows(o.codes, o.scale, 1, true);
}

/// Region of w from (row, col): its codes.
void fill_codes(const Operand& o, const Matrix& w, int64_t row, int64_t col) {
  fp8_unpack(o.codes, static_cast<const uint8_t*>(w.data) + row * w.cols + col, w.cols);
}

/// Quantises and dequantises t by rows in groups of 128 columns: what a cached FP8 activation gives back.
void round_trip_rows(const Fp8Tile& t) {
  float scale[kFp8Group];
  for (int64_t j = 0; j < t.cols; j += kFp8Group) {
    const Fp8Tile group{t.data + j, t.rows, std::min(kFp8Group, t.cols - j), t.ld};
    fp8_quantize_rows(group, scale, 1, true);
    fp8_scale_rows(group, scale, 1);
  }
}

}  // namespace

void fp8_linear_forward(Stream& s, Tensor y, const Tensor& x, const Matrix& w, Out out) {
  const auto left = [&](const Operand& o, int64_t k, int64_t row) { fill_rows(o, x, row, k); };
  const auto right = [&](const Operand& o, int64_t k, int64_t col) {
    fill_codes(o, w, col, k);
    const float* scales = w.scales + col / kFp8Group * w.scale_cols() + k / kFp8Group;
    for (int64_t j = 0; j < o.codes.rows; ++j) o.scale[j] = scales[j / kFp8Group * w.scale_cols()];
  };
  product(s, y, out, x.cols(), {false, true}, left, right);
}

void fp8_linear_backward_input(Stream& s, Tensor dx, const Tensor& dy, const Matrix& w, Out out) {
  const auto left = [&](const Operand& o, int64_t n, int64_t row) { fill_rows(o, dy, row, n); };
  const auto right = [&](const Operand& o, int64_t n, int64_t col) {
    fill_codes(o, w, n, col);
    const float* scales = w.scales + n / kFp8Group * w.scale_cols() + col / kFp8Group;
    for (int64_t j = 0; j < o.codes.cols; ++j) o.scale[j] = scales[j / kFp8Group];
  };
  product(s, dx, out, dy.cols(), {false, false}, left, right);
}

void fp8_linear_backward_weight(Stream& s, const Matrix& dw, const Tensor& dy, const Tensor& x) {
  const auto left = [&](const Operand& o, int64_t t, int64_t col) {
    fp8_load(o.codes, dy, t, col);
    fp8_quantize_columns(o.codes, o.scale, true);
  };
  const auto right = [&](const Operand& o, int64_t t, int64_t col) {
    fp8_load(o.codes, x, t, col);
    round_trip_rows(o.codes);
    fp8_quantize_columns(o.codes, o.scale, true);
  };
  if (x.rows() > 0) product(s, dw.tensor(), Out::add, x.rows(), {true, false}, left, right);
}

}  // namespace sluice::cpu
