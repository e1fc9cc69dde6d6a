#include "ops/quant.h"

#include <algorithm>

#include "ops/cpu/fp8_tile.h"

namespace sluice::cpu {
namespace {

/// Calls fn(tile, row, col) for every 128 x 128 block of a rows x cols matrix; the tile is uninitialised scratch.
template <class Fn>
void for_each_block(Stream& s, int64_t rows, int64_t cols, Fn&& fn) {
  const int64_t across = (cols + kFp8Group - 1) / kFp8Group, down = (rows + kFp8Group - 1) / kFp8Group;
  s.pool().run(across * down, [&](int64_t task, int thread) {
    const int64_t row = task / across * kFp8Group, col = task % across * kFp8Group;
    fn(Fp8Tile{s.scratch(thread, kFp8Group * kFp8Group), std::min(kFp8Group, rows - row),
               std::min(kFp8Group, cols - col), kFp8Group},
       row, col);
  });
}

float* scale_at(const Matrix& w, int64_t row, int64_t col) {
  return w.scales + row / kFp8Group * w.scale_cols() + col / kFp8Group;
}

uint8_t* code_at(const Tensor& codes, int64_t row, int64_t col) { return static_cast<uint8_t*>(codes.at(row, col)); }

}  // namespace

void quantize_weight(Stream& s, const Matrix& w, const Tensor& x, bool power_of_two) {
  for_each_block(s, w.rows, w.cols, [&](const Fp8Tile& t, int64_t row, int64_t col) {
    fp8_load(t, x, row, col);
    *scale_at(w, row, col) = fp8_quantize_block(t, power_of_two);
    fp8_pack(code_at(w.tensor(), row, col), w.cols, t);
  });
}

void dequantize_weight(Stream& s, Tensor x, const Matrix& w) {
  for_each_block(s, w.rows, w.cols, [&](const Fp8Tile& t, int64_t row, int64_t col) {
    fp8_unpack(t, code_at(w.tensor(), row, col), w.cols);
    fp8_scale_rows(t, scale_at(w, row, col), 0);
    fp8_store(x, row, col, t, false);
  });
}

void quantize_rows(Stream& s, Tensor code_TK, Tensor scale, const Tensor& x_TK, bool power_of_two) {
  for_each_block(s, x_TK.rows(), x_TK.cols(), [&](const Fp8Tile& t, int64_t row, int64_t col) {
    fp8_load(t, x_TK, row, col);
    fp8_quantize_rows(t, static_cast<float*>(scale.at(row, col / kFp8Group)), scale.cols(), power_of_two);
    fp8_pack(code_at(code_TK, row, col), x_TK.cols(), t);
  });
}

void dequantize_rows(Stream& s, Tensor x_TK, const Tensor& code_TK, const Tensor& scale) {
  for_each_block(s, x_TK.rows(), x_TK.cols(), [&](const Fp8Tile& t, int64_t row, int64_t col) {
    fp8_unpack(t, code_at(code_TK, row, col), x_TK.cols());
    fp8_scale_rows(t, static_cast<const float*>(scale.at(row, col / kFp8Group)), scale.cols());
    fp8_store(x_TK, row, col, t, false);
  });
}

void quantize_columns(Stream& s, Tensor code_TK, Tensor scale, const Tensor& x_TK, bool power_of_two) {
  for_each_block(s, x_TK.rows(), x_TK.cols(), [&](const Fp8Tile& t, int64_t row, int64_t col) {
    fp8_load(t, x_TK, row, col);
    fp8_quantize_columns(t, static_cast<float*>(scale.at(row / kFp8Group, col)), power_of_two);
    fp8_pack(code_at(code_TK, row, col), x_TK.cols(), t);
  });
}

}  // namespace sluice::cpu
