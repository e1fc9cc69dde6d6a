// The plain matrix of the references: a vector of scalars. The references are templates on the scalar C: double gives
// values, std::complex<double> gives exact derivatives, Im f(x + i h) / h with a tiny h (complex step). So they use
// nothing that is not analytic: comparisons (maxima, top k) look at real parts only.
#pragma once
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

namespace sluice::ref {

template <class C>
struct Mat {
  int64_t rows = 0, cols = 0;
  std::vector<C> data;

  Mat() = default;
  Mat(int64_t rows_, int64_t cols_) : rows(rows_), cols(cols_), data(static_cast<size_t>(rows_ * cols_)) {}
  int64_t size() const { return rows * cols; }
  C& operator()(int64_t i, int64_t j) { return data[static_cast<size_t>(i * cols + j)]; }
  const C& operator()(int64_t i, int64_t j) const { return data[static_cast<size_t>(i * cols + j)]; }
  /// Element of a vector, or of the flattened matrix.
  C& operator[](int64_t i) { return data[static_cast<size_t>(i)]; }
  const C& operator[](int64_t i) const { return data[static_cast<size_t>(i)]; }
};

/// The same numbers as another scalar: constants of a complex computation.
template <class C>
Mat<C> lift(const Mat<double>& m) {
  Mat<C> out(m.rows, m.cols);
  std::copy(m.data.begin(), m.data.end(), out.data.begin());
  return out;
}

/// Sum over elements of a b: the loss whose gradient with respect to a is b.
template <class C>
C dot(const Mat<C>& a, const Mat<double>& b) {
  C sum = 0;
  for (int64_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

template <class C>
Mat<C> plus(Mat<C> a, const Mat<C>& b) {
  for (int64_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

/// 1 / (1 + exp(-z)) without overflow on either side.
template <class C>
C sigmoid(const C& z) {
  if (std::real(z) >= 0) return 1.0 / (1.0 + std::exp(-z));
  const C e = std::exp(z);
  return e / (1.0 + e);
}

/// log sum exp of one row.
template <class C>
C log_sum_exp(const std::vector<C>& z) {
  double top = std::real(z[0]);
  for (const C& v : z) top = std::max(top, std::real(v));
  C sum = 0;
  for (const C& v : z) sum += std::exp(v - top);
  return top + std::log(sum);
}

template <class C>
std::vector<C> softmax(std::vector<C> z) {
  const C lse = log_sum_exp(z);
  for (C& v : z) v = std::exp(v - lse);
  return z;
}

/// Row i as a vector.
template <class C>
std::vector<C> row(const Mat<C>& m, int64_t i) {
  return {m.data.begin() + i * m.cols, m.data.begin() + (i + 1) * m.cols};
}

}  // namespace sluice::ref
