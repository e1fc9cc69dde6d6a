#include "ops/quant.h"

#include "ops/dispatch.h"

namespace sluice {
namespace {

constexpr int64_t kGroup = 128;

int64_t groups(int64_t n) { return (n + kGroup - 1) / kGroup; }

bool is_float(const Tensor& x) { return x.dtype == DType::f32 || x.dtype == DType::bf16; }

void check_weight(const Matrix& w, const Tensor& x, const char* what) {
  check(w.format == Format::fp8_128 && x.rows() == w.rows && x.cols() == w.cols && is_float(x), what);
}

void check_activation(const Tensor& code, const Tensor& scale, const Tensor& x, const char* what) {
  check(is_float(x) && code.dtype == DType::f8_e4m3 && code.packed() && code.rows() == x.rows() &&
            code.cols() == x.cols() && scale.dtype == DType::f32 && scale.packed(),
        what);
}

}  // namespace

void quantize_weight(Stream& s, const Matrix& w, const Tensor& x, bool power_of_two) {
  check_weight(w, x, "quantize_weight: expected w fp8_128 and x f32|bf16 of its shape");
  dispatch<cpu::quantize_weight, cuda::quantize_weight>(s, w, x, power_of_two);
}

void dequantize_weight(Stream& s, Tensor x, const Matrix& w) {
  check_weight(w, x, "dequantize_weight: expected w fp8_128 and x f32|bf16 of its shape");
  dispatch<cpu::dequantize_weight, cuda::dequantize_weight>(s, x, w);
}

void quantize_rows(Stream& s, Tensor code_TK, Tensor scale, const Tensor& x_TK, bool power_of_two) {
  const char* what = "quantize_rows: expected code f8_e4m3 (T, K), scale f32 (T, ceil(K/128)), x f32|bf16 (T, K)";
  check_activation(code_TK, scale, x_TK, what);
  check(scale.rows() == x_TK.rows() && scale.cols() == groups(x_TK.cols()), what);
  dispatch<cpu::quantize_rows, cuda::quantize_rows>(s, code_TK, scale, x_TK, power_of_two);
}

void dequantize_rows(Stream& s, Tensor x_TK, const Tensor& code_TK, const Tensor& scale) {
  const char* what = "dequantize_rows: expected x f32|bf16 (T, K), code f8_e4m3 (T, K), scale f32 (T, ceil(K/128))";
  check_activation(code_TK, scale, x_TK, what);
  check(scale.rows() == x_TK.rows() && scale.cols() == groups(x_TK.cols()), what);
  dispatch<cpu::dequantize_rows, cuda::dequantize_rows>(s, x_TK, code_TK, scale);
}

void quantize_columns(Stream& s, Tensor code_TK, Tensor scale, const Tensor& x_TK, bool power_of_two) {
  const char* what = "quantize_columns: expected code f8_e4m3 (T, K), scale f32 (ceil(T/128), K), x f32|bf16 (T, K)";
  check_activation(code_TK, scale, x_TK, what);
  check(scale.rows() == groups(x_TK.rows()) && scale.cols() == x_TK.cols(), what);
  dispatch<cpu::quantize_columns, cuda::quantize_columns>(s, code_TK, scale, x_TK, power_of_two);
}

}  // namespace sluice
