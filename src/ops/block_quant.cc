#include "ops/block_quant.h"

#include <cmath>

namespace sluice {
namespace {

void check_row(Format format, int64_t cols, const char* what) {
  check(format != Format::fp8_128 && cols >= 0 && cols % block_shape(format).elements == 0, what);
}

void check_importance(const float* importance, int64_t cols, const char* what) {
  for (int64_t i = 0; importance && i < cols; ++i) check(importance[i] >= 0 && std::isfinite(importance[i]), what);
}

void check_matrix(const Matrix& w, const Tensor& x, const char* what) {
  check_row(w.format, w.cols, what);
  check(x.dtype == DType::f32 && x.rows() == w.rows && x.cols() == w.cols, what);
}

}  // namespace

void dequantize_row(const void* row, Format format, int64_t cols, float* out) {
  check_row(format, cols, "dequantize_row: expected whole blocks of a format other than fp8_128");
  cpu::dequantize_row(row, format, cols, out);
}

void quantize_row(const float* x, Format format, int64_t cols, const float* importance, void* row) {
  check_row(format, cols, "quantize_row: expected whole blocks of a format other than fp8_128");
  check_importance(importance, cols, "quantize_row: expected a finite importance >= 0");
  cpu::quantize_row(x, format, cols, importance, row);
}

void dequantize_blocks(Stream& s, Tensor y, const Matrix& w) {
  check_matrix(w, y, "dequantize_blocks: expected w in whole blocks, not fp8_128, and y f32 of its shape");
  if (s.is_dry()) return;
  cpu::dequantize_blocks(s, y, w);
}

void quantize_blocks(Stream& s, const Matrix& w, const Tensor& x, const float* importance) {
  check_matrix(w, x, "quantize_blocks: expected w in whole blocks, not fp8_128, and x f32 of its shape");
  if (s.is_dry()) return;
  check_importance(importance, w.cols, "quantize_blocks: expected a finite importance >= 0");
  cpu::quantize_blocks(s, w, x, importance);
}

}  // namespace sluice
