// Reference of ops/quant.h and of the FP8 products of ops/linear.h, from the tables of specification 5.4 and 5.5 and in
// double wherever the definition is not itself a float32 operation. Rounding is not analytic: values only.
#pragma once
#include <limits>

#include "ops/ref/linear.h"
#include "ops/ref/mat.h"

namespace sluice::ref {

/// The E4M3 value nearest to v, ties to the even mantissa, saturating: found by walking up the values.
inline double e4m3(double v) {
  if (std::isnan(v)) return v;
  const double a = std::abs(v);
  double below = 0;
  for (int code = 1; code <= 0x7e; ++code) {
    const int exponent = code / 8, mantissa = code % 8;
    const double value =
        exponent ? std::ldexp(8.0 + mantissa, exponent - 10) : std::ldexp(static_cast<double>(mantissa), -9);
    if (a < value) {
      const bool up = a - below > value - a || (a - below == value - a && mantissa % 2 == 0);
      return std::copysign(up ? value : below, v);
    }
    below = value;
  }
  return std::copysign(448.0, v);
}

/// Codes (as values) and scales of a matrix in groups of group_rows x group_cols.
struct Quantized {
  Mat<double> code, scale;
  int64_t group_rows, group_cols;
  Mat<double> values() const {
    Mat<double> v = code;
    for (int64_t i = 0; i < v.rows; ++i)
      for (int64_t j = 0; j < v.cols; ++j) v(i, j) *= scale(i / group_rows, j / group_cols);
    return v;
  }
};

inline Quantized quantize(const Mat<double>& x, int64_t group_rows, int64_t group_cols, bool power_of_two) {
  Quantized q{
      x, {(x.rows + group_rows - 1) / group_rows, (x.cols + group_cols - 1) / group_cols}, group_rows, group_cols};
  for (double& s : q.scale.data) s = 1e-4f;
  for (int64_t i = 0; i < x.rows; ++i)
    for (int64_t j = 0; j < x.cols; ++j) {
      double& amax = q.scale(i / group_rows, j / group_cols);
      if (std::abs(x(i, j)) > amax) amax = std::abs(x(i, j));
    }
  for (double& s : q.scale.data) {
    s = static_cast<float>(s) / 448.0f;
    if (power_of_two) {
      double power = 0x1p-126;
      while (power < s) power *= 2;
      s = power;
    }
  }
  for (int64_t i = 0; i < x.rows; ++i)
    for (int64_t j = 0; j < x.cols; ++j)
      q.code(i, j) = e4m3(static_cast<float>(x(i, j)) / static_cast<float>(q.scale(i / group_rows, j / group_cols)));
  return q;
}

inline Mat<double> transposed(const Mat<double>& m) {
  Mat<double> t(m.cols, m.rows);
  for (int64_t i = 0; i < m.rows; ++i)
    for (int64_t j = 0; j < m.cols; ++j) t(j, i) = m(i, j);
  return t;
}

/// Products of the FP8 recipe; w holds the dequantised values of the weight.
inline Mat<double> fp8_forward(const Mat<double>& x, const Mat<double>& w) {
  return linear(quantize(x, 1, 128, true).values(), w);
}
inline Mat<double> fp8_backward_input(const Mat<double>& dy, const Mat<double>& w) {
  return linear(quantize(dy, 1, 128, true).values(), transposed(w));
}
inline Mat<double> fp8_backward_weight(const Mat<double>& dy, const Mat<double>& x) {
  const Mat<double> cached = quantize(x, 1, 128, true).values();
  return linear(transposed(quantize(dy, 128, 1, true).values()), transposed(quantize(cached, 128, 1, true).values()));
}

}  // namespace sluice::ref
