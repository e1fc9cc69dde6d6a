// Kit of the op tests: host tensors with poison and gaps between rows, runs that must agree bit for bit (with several
// numbers of threads, or again on the GPU), and exact gradients of the references by complex step.
#pragma once
#include <gtest/gtest.h>

#include <complex>
#include <cstring>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "base/rng.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "ops/ref/mat.h"
#include "shared_memory.h"

namespace sluice::test {

using ref::dot;
using ref::lift;
using ref::Mat;

/// `tol`: relative error of sums in float32 and a rounding to `dtype` (bf16: two roundings at most).
struct Case {
  Device::Kind device;
  DType dtype;
  double tol;
};
inline std::string name(const Case& c) {
  return std::string(c.device == Device::Kind::cpu ? "cpu_" : "cuda_") + dtype_name(c.dtype);
}
inline void PrintTo(const Case& c, std::ostream* out) { *out << name(c); }
constexpr double kTolF32 = 1e-6, kTolBf16 = 4e-3;
/// Products on tensor cores, which cut what they add instead of rounding it, over a thousand elements.
constexpr double kTolTensorCores = 3e-6;
constexpr double tolerance(DType dtype) { return dtype == DType::bf16 ? kTolBf16 : kTolF32; }

enum class Rows : uint8_t {
  packed,
  strided  // starts at element 3, rows 7 elements further apart than they are long
};

/// Memory of tensors.
template <class T>
using SharedVector = std::vector<T, SharedAllocator<T>>;
using Bytes = SharedVector<std::byte>;

/// A tensor in host memory. Memory that is not an element has all bits set: NaN, so a kernel that reads it spoils its
/// result and one that writes it is caught. New tensors are poisoned likewise.
class Host {
 public:
  Host(DType dtype, int64_t rows, int64_t cols, Rows layout = Rows::packed)
      : view_(nullptr, dtype, {rows, cols}), first_(layout == Rows::strided ? 3 : 0) {
    if (layout == Rows::strided) view_.ld = cols + 7;
    bytes_.assign(static_cast<size_t>(first_ + rows * view_.ld) * dtype_size(dtype), std::byte{0xff});
  }
  /// A packed vector.
  Host(DType dtype, int64_t size) : Host(dtype, 1, size) { view_ = Tensor(nullptr, dtype, {size}); }

  Tensor tensor() const {
    Tensor t = view_;
    t.data = const_cast<std::byte*>(bytes_.data()) + static_cast<size_t>(first_) * dtype_size(t.dtype);
    return t;
  }
  operator Tensor() const { return tensor(); }  // NOLINT: a Host stands for its tensor
  DType dtype() const { return view_.dtype; }
  int64_t rows() const { return view_.rows(); }
  int64_t cols() const { return view_.cols(); }
  const Bytes& bytes() const { return bytes_; }

  Mat<double> get() const {
    Mat<double> m(rows(), cols());
    for (int64_t i = 0; i < rows(); ++i)
      for (int64_t j = 0; j < cols(); ++j) m(i, j) = load(i, j);
    return m;
  }
  /// Elements of a tensor of integers.
  std::vector<int64_t> integers() const {
    std::vector<int64_t> out;
    for (double v : get().data) out.push_back(static_cast<int64_t>(v));
    return out;
  }
  Mat<int64_t> integer_matrix() const {
    Mat<int64_t> m(rows(), cols());
    m.data = integers();
    return m;
  }
  /// Rounds to the dtype.
  template <class V>
  Host& set(const std::vector<V>& values) {
    for (int64_t i = 0; i < rows(); ++i)
      for (int64_t j = 0; j < cols(); ++j)
        store(i, j, static_cast<double>(values[static_cast<size_t>(i * cols() + j)]));
    return *this;
  }
  Host& set(const Mat<double>& m) { return set(m.data); }
  Host& fill(double value) { return set(std::vector<double>(static_cast<size_t>(view_.size()), value)); }

  bool gaps_untouched() const {
    for (int64_t i = -1; i < rows(); ++i)
      for (int64_t j = i < 0 ? view_.ld - first_ : cols(); j < view_.ld; ++j)
        for (size_t b = 0; b < dtype_size(dtype()); ++b)
          if (bytes_[offset(i, j) + b] != std::byte{0xff}) return false;
    return true;
  }

 private:
  size_t offset(int64_t i, int64_t j) const {
    return static_cast<size_t>(first_ + i * view_.ld + j) * dtype_size(dtype());
  }
  template <class T>
  T raw(int64_t i, int64_t j) const {
    T v;
    std::memcpy(&v, &bytes_[offset(i, j)], sizeof v);
    return v;
  }
  double load(int64_t i, int64_t j) const {
    switch (dtype()) {
      case DType::f32:
        return raw<float>(i, j);
      case DType::bf16:
        return static_cast<float>(raw<bf16>(i, j));
      case DType::f64:
        return raw<double>(i, j);
      case DType::i32:
        return raw<int32_t>(i, j);
      case DType::i64:
        return static_cast<double>(raw<int64_t>(i, j));
      default:
        fail("Host: dtype {}", dtype_name(dtype()));
    }
  }
  template <class T>
  void put(int64_t i, int64_t j, T v) {
    std::memcpy(&bytes_[offset(i, j)], &v, sizeof v);
  }
  void store(int64_t i, int64_t j, double v) {
    switch (dtype()) {
      case DType::f32:
        return put(i, j, static_cast<float>(v));
      case DType::bf16:
        return put(i, j, bf16(static_cast<float>(v)));
      case DType::f64:
        return put(i, j, v);
      case DType::i32:
        return put(i, j, static_cast<int32_t>(v));
      case DType::i64:
        return put(i, j, static_cast<int64_t>(v));
      default:
        fail("Host: dtype {}", dtype_name(dtype()));
    }
  }

  Tensor view_;
  int64_t first_;
  Bytes bytes_;
};

inline Stream& stream(int threads) {
  static Stream streams[] = {Stream(1), Stream(2), Stream(5)};
  return streams[threads == 1 ? 0 : threads == 2 ? 1 : 2];
}

/// The device of the test that is running.
inline Device::Kind& tested_device() {
  static Device::Kind device = Device::Kind::cpu;
  return device;
}

/// Streams of that device on which an op must give the same bits: of 1, 2 and 5 threads, or the GPU's three times.
inline std::vector<Stream*> tested_streams() {
  if (tested_device() == Device::Kind::cpu) return {&stream(1), &stream(2), &stream(5)};
  static Stream gpu(Device{Device::Kind::cuda, 0}, 1);
  return {&gpu, &gpu, &gpu};
}

/// Calls fn(stream) with each of the tested streams on the same initial contents of `outputs`, which must come out the
/// same bit for bit, and keep out of the gaps between rows.
template <class F>
void run(const std::vector<Host*>& outputs, F&& fn) {
  std::vector<std::vector<Host>> states(1);
  for (Host* h : outputs) states[0].push_back(*h);
  for (Stream* s : tested_streams()) {
    for (size_t i = 0; i < outputs.size(); ++i) *outputs[i] = states[0][i];
    fn(*s);
    s->synchronize();
    states.emplace_back();
    for (size_t i = 0; i < outputs.size(); ++i) {
      EXPECT_TRUE(outputs[i]->gaps_untouched()) << "output " << i << ", " << s->threads() << " threads";
      states.back().push_back(*outputs[i]);
      EXPECT_TRUE(outputs[i]->bytes() == states[1][i].bytes())
          << "output " << i << ": the result of run " << states.size() - 1 << " with " << s->threads()
          << " threads is not that of the first";
    }
  }
}

/// ||a - b|| / ||b||, absolute where b is 0.
inline double diff(const Mat<double>& a, const Mat<double>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double error = 0, norm = 0;
  for (int64_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(norm > 0 ? error / norm : error);
}

/// The derivative of loss at x in a direction, exact: Im loss(x + i h direction) / h.
template <class Loss>
double complex_step(const Loss& loss, const Mat<double>& x, const Mat<double>& direction) {
  constexpr double kH = 1e-50;
  Mat<std::complex<double>> z = lift<std::complex<double>>(x);
  for (int64_t i = 0; i < x.size(); ++i) z[i] += std::complex<double>(0, kH * direction[i]);
  return std::imag(loss(z)) / kH;
}

/// The gradient of loss at x.
template <class Loss>
Mat<double> complex_step(const Loss& loss, const Mat<double>& x) {
  Mat<double> gradient(x.rows, x.cols), direction(x.rows, x.cols);
  for (int64_t i = 0; i < x.size(); ++i) {
    direction[i] = 1;
    gradient[i] = complex_step(loss, x, direction);
    direction[i] = 0;
  }
  return gradient;
}

/// Relative error of `gradient` of loss at x. Of a large x, as seen in 8 random directions over all elements: the root
/// mean square of an error's components in them is its norm but for chance.
template <class Loss>
double gradient_error(const Mat<double>& gradient, const Loss& loss, const Mat<double>& x) {
  constexpr int64_t kAll = 400, kDirections = 8;
  if (gradient.size() != x.size()) return std::numeric_limits<double>::infinity();
  if (x.size() <= kAll) return diff(gradient, complex_step(loss, x));
  Rng rng(99);
  Mat<double> direction(x.rows, x.cols);
  double squares = 0;
  for (int64_t k = 0; k < kDirections; ++k) {
    for (double& d : direction.data) d = rng.below(2) ? 1 : -1;
    squares += std::pow(dot(gradient, direction) - complex_step(loss, x, direction), 2);
  }
  return std::sqrt(squares / kDirections / dot(gradient, gradient));
}

inline Mat<double> minus(Mat<double> a, const Mat<double>& b) {
  for (int64_t i = 0; i < a.size(); ++i) a[i] -= b[i];
  return a;
}

/// Normal values times `scale`.
inline Host random_host(Rng& rng, DType dtype, int64_t rows, int64_t cols, Rows layout = Rows::packed,
                        double scale = 1) {
  std::vector<double> values(static_cast<size_t>(rows * cols));
  for (double& v : values) v = scale * rng.normal();
  return Host(dtype, rows, cols, layout).set(values);
}

/// Tests that run for every device and activation dtype.
class OpTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (GetParam().device == Device::Kind::cuda && !has_gpu()) GTEST_SKIP() << "no GPU";
    tested_device() = GetParam().device;
  }
  void TearDown() override { tested_device() = Device::Kind::cpu; }

  Host random_as(DType dtype, int64_t rows, int64_t cols, Rows layout = Rows::packed, double scale = 1) {
    return random_host(rng_, dtype, rows, cols, layout, scale);
  }
  Host random(int64_t rows, int64_t cols, Rows layout = Rows::packed, double scale = 1) {
    return random_as(GetParam().dtype, rows, cols, layout, scale);
  }
  Host random_vector(DType dtype, int64_t size, double scale = 1) {
    return Host(dtype, size).set(random_as(DType::f64, 1, size, Rows::packed, scale).get());
  }
  Host output(int64_t rows, int64_t cols, Rows layout = Rows::packed) const {
    return {GetParam().dtype, rows, cols, layout};
  }
  DType dtype() const { return GetParam().dtype; }
  double tol() const { return GetParam().tol; }
  /// Of a product whose result has the dtype `result`.
  double product_tol(DType result) const {
    return std::max(tolerance(result), GetParam().device == Device::Kind::cuda ? kTolTensorCores : 0);
  }

  Rng rng_{1};
};

/// Tests of ops whose dtypes are fixed; they run once per device.
class FixedOpTest : public OpTest {};

inline Host i32_vector(const std::vector<int64_t>& values) {
  return Host(DType::i32, static_cast<int64_t>(values.size())).set(values);
}

}  // namespace sluice::test
