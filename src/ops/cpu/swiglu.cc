#include "ops/swiglu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/swiglu.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {

inline V sigmoid(V z) {
  const V one = hn::Set(F(), 1.0f);
  return hn::Div(one, hn::Add(one, exp(hn::Neg(z))));
}

template <class T>
void forward_row(T* h, const T* g, const T* u, int64_t n) {
  for (int64_t i = 0; i < n; i += lanes()) {
    const V z = load_n(g + i, n - i);
    store_n(hn::Mul(hn::Mul(z, sigmoid(z)), load_n(u + i, n - i)), h + i, n - i);
  }
}

template <class T>
void backward_row(T* dg, T* du, const T* dh, const T* g, const T* u, int64_t n) {
  const V one = hn::Set(F(), 1.0f);
  for (int64_t i = 0; i < n; i += lanes()) {
    const V z = load_n(g + i, n - i), d = load_n(dh + i, n - i), up = load_n(u + i, n - i);
    const V sig = sigmoid(z);
    const V slope = hn::Mul(sig, hn::MulAdd(z, hn::Sub(one, sig), one));  // sigma (1 + z (1 - sigma))
    store_n(hn::Mul(hn::Mul(d, up), slope), dg + i, n - i);
    store_n(hn::Mul(d, hn::Mul(z, sig)), du + i, n - i);
  }
}

void forward(Tensor h, const Tensor& g, const Tensor& u, int64_t begin, int64_t n) {
  if (g.dtype == DType::f32)
    forward_row(h.ptr<float>() + begin, g.ptr<float>() + begin, u.ptr<float>() + begin, n);
  else
    forward_row(h.ptr<bf16>() + begin, g.ptr<bf16>() + begin, u.ptr<bf16>() + begin, n);
}

void backward(Tensor dg, Tensor du, const Tensor& dh, const Tensor& g, const Tensor& u, int64_t begin, int64_t n) {
  if (g.dtype == DType::f32)
    backward_row(dg.ptr<float>() + begin, du.ptr<float>() + begin, dh.ptr<float>() + begin, g.ptr<float>() + begin,
                 u.ptr<float>() + begin, n);
  else
    backward_row(dg.ptr<bf16>() + begin, du.ptr<bf16>() + begin, dh.ptr<bf16>() + begin, g.ptr<bf16>() + begin,
                 u.ptr<bf16>() + begin, n);
}

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice::cpu {

HWY_EXPORT(forward);
HWY_EXPORT(backward);

namespace {

/// fn(t) for every row.
template <class F>
void for_each_row(Stream& s, const Tensor& x, F&& fn) {
  constexpr int64_t kGrain = 16384;  // elements
  parallel_for(s, x.rows(), std::max<int64_t>(1, kGrain / std::max<int64_t>(x.cols(), 1)),
               [&](int64_t begin, int64_t end, int) {
                 for (int64_t t = begin; t < end; ++t) fn(t);
               });
}

Tensor row(const Tensor& x, int64_t t) { return x.slice_rows(t, 1); }

}  // namespace

void swiglu_forward(Stream& s, Tensor h, const Tensor& g, const Tensor& u) {
  for_each_row(s, g, [&](int64_t t) { HWY_DYNAMIC_DISPATCH(forward)(row(h, t), row(g, t), row(u, t), 0, g.cols()); });
}

void swiglu_backward(Stream& s, Tensor dg, Tensor du, const Tensor& dh, const Tensor& g, const Tensor& u) {
  for_each_row(s, g, [&](int64_t t) {
    HWY_DYNAMIC_DISPATCH(backward)(row(dg, t), row(du, t), row(dh, t), row(g, t), row(u, t), 0, g.cols());
  });
}

}  // namespace sluice::cpu
#endif  // HWY_ONCE
