// Reference of ops/norm.h (specification 1.4).
#pragma once
#include "ops/ref/mat.h"

namespace sluice::ref {

/// r (1, T) = 1 / sqrt(mean of squares of a row + eps).
template <class C>
Mat<C> rms_reciprocal(const Mat<C>& x, double eps) {
  Mat<C> r(1, x.rows);
  for (int64_t t = 0; t < x.rows; ++t) {
    C sum = 0;
    for (int64_t i = 0; i < x.cols; ++i) sum += x(t, i) * x(t, i);
    r[t] = 1.0 / std::sqrt(sum / static_cast<double>(x.cols) + eps);
  }
  return r;
}

/// y_ti = w_i x_ti / sqrt(mean(x_t^2) + eps), w (1, D).
template <class C>
Mat<C> rmsnorm(const Mat<C>& x, const Mat<C>& w, double eps) {
  const Mat<C> r = rms_reciprocal(x, eps);
  Mat<C> y(x.rows, x.cols);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t i = 0; i < x.cols; ++i) y(t, i) = w[i] * x(t, i) * r[t];
  return y;
}

}  // namespace sluice::ref
