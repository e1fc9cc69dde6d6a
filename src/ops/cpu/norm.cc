#include "ops/norm.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/norm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {

template <class T>
void forward_rows(Tensor y, Tensor r, const Tensor& x, const Tensor& w, float eps, int64_t begin, int64_t end) {
  const int64_t D = x.cols();
  const T* weight = static_cast<const T*>(w.data);
  for (int64_t t = begin; t < end; ++t) {
    const T* in = static_cast<const T*>(x.at(t));
    T* out = static_cast<T*>(y.at(t));
    V squares = hn::Zero(F());
    for (int64_t i = 0; i < D; i += lanes()) {
      const V v = load_n(in + i, D - i);
      squares = hn::MulAdd(v, v, squares);
    }
    const float rt = 1.0f / std::sqrt(sum(squares) / static_cast<float>(D) + eps);
    r.f32()[t] = rt;
    const V vr = hn::Set(F(), rt);
    for (int64_t i = 0; i < D; i += lanes())
      store_n(hn::Mul(hn::Mul(load_n(in + i, D - i), vr), load_n(weight + i, D - i)), out + i, D - i);
  }
}

// With g = dy w:  dx = r (g - xhat mean(g xhat)) = r (g - c x),  c = r^2 mean(g x)
template <class T>
void backward_input_rows(Tensor dx, const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& r, int64_t begin,
                         int64_t end) {
  const int64_t D = x.cols();
  const T* weight = static_cast<const T*>(w.data);
  for (int64_t t = begin; t < end; ++t) {
    const T* in = static_cast<const T*>(x.at(t));
    const T* d_out = static_cast<const T*>(dy.at(t));
    T* d_in = static_cast<T*>(dx.at(t));
    const float rt = r.f32()[t];
    V gx = hn::Zero(F());
    for (int64_t i = 0; i < D; i += lanes()) {
      const V g = hn::Mul(load_n(d_out + i, D - i), load_n(weight + i, D - i));
      gx = hn::MulAdd(g, load_n(in + i, D - i), gx);
    }
    const V c = hn::Set(F(), rt * rt * sum(gx) / static_cast<float>(D)), vr = hn::Set(F(), rt);
    for (int64_t i = 0; i < D; i += lanes()) {
      const V g = hn::Mul(load_n(d_out + i, D - i), load_n(weight + i, D - i));
      store_n(hn::Mul(vr, hn::NegMulAdd(c, load_n(in + i, D - i), g)), d_in + i, D - i);
    }
  }
}

// Columns [begin, end) of all rows, so that every dw is summed by one thread in row order.
template <class T>
void backward_weight_columns(Tensor dw, const Tensor& dy, const Tensor& x, const Tensor& r, int64_t begin,
                             int64_t end) {
  float* d_weight = dw.f32();
  for (int64_t i = begin; i < end; i += lanes()) {
    const int64_t n = end - i;
    V total = load_n(d_weight + i, n);
    for (int64_t t = 0; t < x.rows(); ++t) {
      const V xhat = hn::Mul(load_n(static_cast<const T*>(x.at(t)) + i, n), hn::Set(F(), r.f32()[t]));
      total = hn::MulAdd(load_n(static_cast<const T*>(dy.at(t)) + i, n), xhat, total);
    }
    store_n(total, d_weight + i, n);
  }
}

void forward(Tensor y, Tensor r, const Tensor& x, const Tensor& w, float eps, int64_t begin, int64_t end) {
  x.dtype == DType::f32 ? forward_rows<float>(y, r, x, w, eps, begin, end)
                        : forward_rows<bf16>(y, r, x, w, eps, begin, end);
}
void backward_input(Tensor dx, const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& r, int64_t begin,
                    int64_t end) {
  x.dtype == DType::f32 ? backward_input_rows<float>(dx, dy, x, w, r, begin, end)
                        : backward_input_rows<bf16>(dx, dy, x, w, r, begin, end);
}
void backward_weight(Tensor dw, const Tensor& dy, const Tensor& x, const Tensor& r, int64_t begin, int64_t end) {
  x.dtype == DType::f32 ? backward_weight_columns<float>(dw, dy, x, r, begin, end)
                        : backward_weight_columns<bf16>(dw, dy, x, r, begin, end);
}

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice::cpu {

HWY_EXPORT(forward);
HWY_EXPORT(backward_input);
HWY_EXPORT(backward_weight);

namespace {
constexpr int64_t kRows = 64, kColumns = 32;
}

void rmsnorm_forward(Stream& s, Tensor y, Tensor r, const Tensor& x, const Tensor& w, float eps) {
  parallel_for(s, x.rows(), kRows, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(forward)(y, r, x, w, eps, begin, end);
  });
}

void rmsnorm_backward_input(Stream& s, Tensor dx, const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& r) {
  parallel_for(s, x.rows(), kRows, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(backward_input)(dx, dy, x, w, r, begin, end);
  });
}

void rmsnorm_backward_weight(Stream& s, Tensor dw, const Tensor& dy, const Tensor& x, const Tensor& r) {
  parallel_for(s, x.cols(), kColumns, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(backward_weight)(dw, dy, x, r, begin, end);
  });
}

}  // namespace sluice::cpu
#endif  // HWY_ONCE
