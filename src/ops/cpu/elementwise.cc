#include "ops/elementwise.h"

#include "ops/cpu/convert.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/elementwise.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {

template <class Y, class X>
void convert_row(Y* y, const X* x, int64_t n) {
  for (int64_t i = 0; i < n; i += lanes()) store_n(load_n(x + i, n - i), y + i, n - i);
}

template <class Y, class A, class B>
void add_row(Y* y, const A* a, const B* b, int64_t n) {
  for (int64_t i = 0; i < n; i += lanes()) store_n(hn::Add(load_n(a + i, n - i), load_n(b + i, n - i)), y + i, n - i);
}

void convert_any(void* y, DType y_type, const void* x, DType x_type, int64_t n) {
  if (y_type == DType::i32) {
    std::memcpy(y, x, static_cast<size_t>(n) * sizeof(int32_t));
    return;
  }
  const bool yf = y_type == DType::f32, xf = x_type == DType::f32;
  if (yf && xf) convert_row(static_cast<float*>(y), static_cast<const float*>(x), n);
  if (yf && !xf) convert_row(static_cast<float*>(y), static_cast<const bf16*>(x), n);
  if (!yf && xf) convert_row(static_cast<bf16*>(y), static_cast<const float*>(x), n);
  if (!yf && !xf) std::memcpy(y, x, static_cast<size_t>(n) * sizeof(bf16));
}

template <class Y, class A>
void add_any_b(void* y, const void* a, const void* b, DType b_type, int64_t n) {
  if (b_type == DType::f32)
    add_row(static_cast<Y*>(y), static_cast<const A*>(a), static_cast<const float*>(b), n);
  else
    add_row(static_cast<Y*>(y), static_cast<const A*>(a), static_cast<const bf16*>(b), n);
}

void add_any(void* y, DType y_type, const void* a, DType a_type, const void* b, DType b_type, int64_t n) {
  const bool yf = y_type == DType::f32, af = a_type == DType::f32;
  if (yf && af) add_any_b<float, float>(y, a, b, b_type, n);
  if (yf && !af) add_any_b<float, bf16>(y, a, b, b_type, n);
  if (!yf && af) add_any_b<bf16, float>(y, a, b, b_type, n);
  if (!yf && !af) add_any_b<bf16, bf16>(y, a, b, b_type, n);
}

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice::cpu {

HWY_EXPORT(convert_any);
HWY_EXPORT(add_any);

namespace {
constexpr int64_t kRows = 64;
}

void convert(void* y, DType y_type, const void* x, DType x_type, int64_t n) {
  HWY_DYNAMIC_DISPATCH(convert_any)(y, y_type, x, x_type, n);
}

Block as_f32(const Tensor& t, float* scratch) {
  if (t.dtype == DType::f32) return {static_cast<const float*>(t.data), t.ld};
  const int64_t cols = t.cols();
  for (int64_t r = 0; r < t.rows(); ++r) convert(scratch + r * cols, DType::f32, t.at(r), t.dtype, cols);
  return {scratch, cols};
}

void store_f32(Tensor y, const float* x, Out out) {
  const int64_t cols = y.cols();
  for (int64_t r = 0; r < y.rows(); ++r) {
    if (out == Out::set)
      convert(y.at(r), y.dtype, x + r * cols, DType::f32, cols);
    else
      HWY_DYNAMIC_DISPATCH(add_any)(y.at(r), y.dtype, y.at(r), y.dtype, x + r * cols, DType::f32, cols);
  }
}

void copy(Stream& s, Tensor y, const Tensor& x) {
  parallel_for(s, x.rows(), kRows, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) convert(y.at(r), y.dtype, x.at(r), x.dtype, x.cols());
  });
}

void add(Stream& s, Tensor y, const Tensor& a, const Tensor& b) {
  parallel_for(s, y.rows(), kRows, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r)
      HWY_DYNAMIC_DISPATCH(add_any)(y.at(r), y.dtype, a.at(r), a.dtype, b.at(r), b.dtype, y.cols());
  });
}

void zero(Stream& s, Tensor x) {
  parallel_for(s, x.rows(), kRows, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) std::memset(x.at(r), 0, static_cast<size_t>(x.cols()) * dtype_size(x.dtype));
  });
}

}  // namespace sluice::cpu
#endif  // HWY_ONCE
