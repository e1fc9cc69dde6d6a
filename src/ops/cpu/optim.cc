#include "ops/optim.h"

#include <cmath>

#include "ops/cpu/convert.h"
#include "ops/quant.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/optim.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {

template <class T>
void adamw_range(float* w, T* m, T* v, const float* g, const AdamW& c, int64_t n) {
  const double correction1 = 1.0 - std::pow(static_cast<double>(c.beta1), static_cast<double>(c.step));
  const double correction2 = 1.0 - std::pow(static_cast<double>(c.beta2), static_cast<double>(c.step));
  const V b1 = hn::Set(F(), c.beta1), b2 = hn::Set(F(), c.beta2), gs = hn::Set(F(), c.grad_scale);
  const V one1 = hn::Set(F(), 1.0f - c.beta1), one2 = hn::Set(F(), 1.0f - c.beta2);
  const V lr1 = hn::Set(F(), static_cast<float>(c.lr / correction1)), eps = hn::Set(F(), c.eps);
  const V root2 = hn::Set(F(), static_cast<float>(1.0 / std::sqrt(correction2)));
  const V keep = hn::Set(F(), 1.0f - c.lr * c.weight_decay);
  for (int64_t i = 0; i < n; i += lanes()) {
    const V grad = hn::Mul(load_n(g + i, n - i), gs);
    const V m1 = hn::MulAdd(one1, grad, hn::Mul(b1, load_n(m + i, n - i)));
    const V v1 = hn::MulAdd(one2, hn::Mul(grad, grad), hn::Mul(b2, load_n(v + i, n - i)));
    const V denominator = hn::MulAdd(hn::Sqrt(v1), root2, eps);
    const V w1 = hn::NegMulAdd(lr1, hn::Div(m1, denominator), hn::Mul(keep, load_n(w + i, n - i)));
    store_n(m1, m + i, n - i);
    store_n(v1, v + i, n - i);
    store_n(w1, w + i, n - i);
  }
}

void adamw_any(Tensor w, Tensor m, Tensor v, const Tensor& g, const AdamW& c, int64_t begin, int64_t n) {
  if (m.dtype == DType::f32)
    adamw_range(w.f32() + begin, m.f32() + begin, v.f32() + begin, g.f32() + begin, c, n);
  else
    adamw_range(w.f32() + begin, m.ptr<bf16>() + begin, v.ptr<bf16>() + begin, g.f32() + begin, c, n);
}

// Eight sums whatever the vector length, so that the order depends on n alone; the compiler vectorises them.
double squares(const float* x, int64_t n) {
  double part[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int64_t j = 0; j < 8; ++j) part[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
  for (int64_t j = 0; i + j < n; ++j) part[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
  return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}

void ema(float* average, const float* w, float decay, int64_t n) {
  const V d = hn::Set(F(), decay), rest = hn::Set(F(), 1.0f - decay);
  for (int64_t i = 0; i < n; i += lanes())
    store_n(hn::MulAdd(d, load_n(average + i, n - i), hn::Mul(rest, load_n(w + i, n - i))), average + i, n - i);
}

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice::cpu {

HWY_EXPORT(adamw_any);
HWY_EXPORT(squares);
HWY_EXPORT(ema);

namespace {
constexpr int64_t kGrain = 16384;
}

void adamw_step(Stream& s, std::span<const AdamWTensor> tensors, const AdamW& config) {
  for (const AdamWTensor& t : tensors) {
    AdamW c = config;
    if (!t.decays) c.weight_decay = 0;
    const bool is_fp8 = t.working && t.working.format == Format::fp8_128;
    const auto from = [](const Tensor& x, int64_t begin) {
      return static_cast<char*>(x.data) + begin * static_cast<int64_t>(dtype_size(x.dtype));
    };
    parallel_for(s, t.w.size(), kGrain, [&](int64_t begin, int64_t end, int) {
      HWY_DYNAMIC_DISPATCH(adamw_any)(t.w, t.m, t.v, t.g, c, begin, end - begin);
      if (!t.keeps_g) std::fill(t.g.f32() + begin, t.g.f32() + end, 0.0f);
      if (!t.working || is_fp8) return;
      const Tensor working = t.working.tensor();
      convert(from(working, begin), working.dtype, from(t.w, begin), DType::f32, end - begin);
    });
    if (is_fp8) cpu::quantize_weight(s, t.working, t.w, false);
  }
}

namespace {

void sum_squares_of(Stream& s, double& sum, const Tensor& x) {
  const int64_t pieces = (x.size() + kGrain - 1) / kGrain;
  double* part = reinterpret_cast<double*>(s.shared_scratch(static_cast<size_t>(2 * pieces)));
  parallel_for(s, x.size(), kGrain, [&](int64_t begin, int64_t end, int) {
    part[begin / kGrain] = HWY_DYNAMIC_DISPATCH(squares)(x.f32() + begin, end - begin);
  });
  for (int64_t i = 0; i < pieces; ++i) sum += part[i];
}

}  // namespace

void sum_squares(Stream& s, Tensor sum_1, std::span<const Tensor> x) {
  for (const Tensor& t : x) sum_squares_of(s, *sum_1.ptr<double>(), t);
}

void ema_update(Stream& s, Tensor average, const Tensor& w, float decay) {
  parallel_for(s, w.size(), kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(ema)(average.f32() + begin, w.f32() + begin, decay, end - begin);
  });
}

}  // namespace sluice::cpu
#endif  // HWY_ONCE
