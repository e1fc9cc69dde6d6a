// A tensor at an op boundary: a plain view with a runtime dtype. It owns nothing.
#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>

#include "base/dtype.h"
#include "base/error.h"

namespace sluice {

/// View of up to 4 dimensions. The last dimension is contiguous; all dimensions before it are flattened into rows that
/// lie `ld` elements apart (so slices of columns need no copy). Which device `data` is on is the Stream's business.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  std::array<int64_t, 4> shape{};
  int64_t ld = 0;

  Tensor() = default;
  Tensor(void* data_, DType dtype_, std::initializer_list<int64_t> dims) : data(data_), dtype(dtype_) {
    check(dims.size() <= 4, "Tensor: expected at most 4 dimensions");
    for (int64_t d : dims) shape[static_cast<size_t>(rank++)] = d;
    ld = cols();
  }
  Tensor(float* p, std::initializer_list<int64_t> dims) : Tensor(p, DType::f32, dims) {}

  int64_t dim(int i) const { return shape[static_cast<size_t>(i)]; }
  int64_t cols() const { return rank ? shape[static_cast<size_t>(rank - 1)] : 1; }
  int64_t rows() const {
    int64_t n = 1;
    for (int i = 0; i + 1 < rank; ++i) n *= dim(i);
    return n;
  }
  int64_t size() const { return rows() * cols(); }
  bool packed() const { return ld == cols() || rows() <= 1; }
  size_t bytes() const { return static_cast<size_t>(size()) * dtype_size(dtype); }
  explicit operator bool() const { return rank > 0; }

  /// Typed pointer; T must have the size of the dtype.
  template <class T>
  T* ptr() const {
    check(sizeof(T) == dtype_size(dtype), "Tensor::ptr: the type has another size than the dtype");
    return static_cast<T*>(data);
  }
  float* f32() const {
    check(dtype == DType::f32, "Tensor::f32: dtype is not f32");
    return static_cast<float*>(data);
  }

  /// The element (row, col) onward, as bytes.
  void* at(int64_t row, int64_t col = 0) const {
    return static_cast<char*>(data) + (row * ld + col) * static_cast<int64_t>(dtype_size(dtype));
  }
  /// The first n elements of a vector.
  Tensor first(int64_t n) const {
    check(rank == 1 && n <= size(), "Tensor::first: expected a vector of at least n elements");
    return Tensor(data, dtype, {n});
  }
  /// Rows [begin, begin + n) as a matrix.
  Tensor slice_rows(int64_t begin, int64_t n) const {
    Tensor t(at(begin), dtype, {n, cols()});
    t.ld = ld;
    return t;
  }
  /// Columns [begin, begin + n) of all rows as a matrix.
  Tensor slice_cols(int64_t begin, int64_t n) const {
    Tensor t(at(0, begin), dtype, {rows(), n});
    t.ld = ld;
    return t;
  }
  /// The same elements with other dimensions; needs a packed tensor.
  Tensor reshape(std::initializer_list<int64_t> dims) const {
    check(packed(), "Tensor::reshape: expected a packed tensor");
    Tensor t(data, dtype, dims);
    check(t.size() == size(), "Tensor::reshape: the number of elements changes");
    return t;
  }
  /// The rows of a (T, H*D) matrix as (T*H, D): one row per token and head.
  Tensor split_heads(int64_t heads) const {
    check(cols() % heads == 0 && packed(), "Tensor::split_heads: expected a packed tensor of whole heads");
    return reshape({rows() * heads, cols() / heads});
  }
};

/// Same dtype, rows and columns.
inline bool same(const Tensor& a, const Tensor& b) {
  return a.dtype == b.dtype && a.rows() == b.rows() && a.cols() == b.cols();
}

}  // namespace sluice
