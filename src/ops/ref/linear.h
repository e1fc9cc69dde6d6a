// Reference of ops/linear.h without quantisation.
#pragma once
#include "ops/ref/mat.h"

namespace sluice::ref {

/// y_TN = x_TK w_NK'.
template <class C>
Mat<C> linear(const Mat<C>& x, const Mat<C>& w) {
  Mat<C> y(x.rows, w.rows);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t n = 0; n < w.rows; ++n) {
      C sum = 0;
      for (int64_t k = 0; k < x.cols; ++k) sum += x(t, k) * w(n, k);
      y(t, n) = sum;
    }
  return y;
}

/// Rows [offsets[e], offsets[e + 1]) times the matrix of expert e; rows behind the last expert give 0.
template <class C>
Mat<C> grouped_linear(const Mat<C>& x, const std::vector<int64_t>& offsets, const std::vector<Mat<C>>& w) {
  Mat<C> y(x.rows, w[0].rows);
  for (size_t e = 0; e < w.size(); ++e)
    for (int64_t t = offsets[e]; t < offsets[e + 1]; ++t)
      for (int64_t n = 0; n < w[e].rows; ++n) {
        C sum = 0;
        for (int64_t k = 0; k < x.cols; ++k) sum += x(t, k) * w[e](n, k);
        y(t, n) = sum;
      }
  return y;
}

}  // namespace sluice::ref
