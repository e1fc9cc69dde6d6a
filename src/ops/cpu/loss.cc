#include "ops/loss.h"

#include <cmath>

#include "ops/cpu/convert.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/loss.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {

float row_max(const float* x, int64_t n) {
  V most = hn::Set(F(), x[0]);
  int64_t i = 0;
  for (; i + lanes() <= n; i += lanes()) most = hn::Max(most, load(x + i));
  float largest = hn::GetLane(hn::MaxOfLanes(F(), most));
  for (; i < n; ++i) largest = std::max(largest, x[i]);
  return largest;
}

/// Sum of exp(x - most); e = exp(x - most) unless null.
float row_exp(float* e, const float* x, int64_t n, float most) {
  const V vm = hn::Set(F(), most);
  V totals = hn::Zero(F());
  float total = 0;
  for (int64_t i = 0; i < n; i += lanes()) {
    const V v = exp(hn::Sub(load_n(x + i, n - i), vm));
    if (e) store_n(v, e + i, n - i);
    if (i + lanes() <= n) {
      totals = hn::Add(totals, v);
    } else {
      float tail[HWY_MAX_BYTES / sizeof(float)];
      store(v, tail);
      for (int64_t j = 0; j < n - i; ++j) total += tail[j];
    }
  }
  return total + sum(totals);
}

void row_scale(float* x, int64_t n, float factor) {
  for (int64_t i = 0; i < n; i += lanes()) store_n(hn::Mul(load_n(x + i, n - i), hn::Set(F(), factor)), x + i, n - i);
}

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice::cpu {

HWY_EXPORT(row_max);
HWY_EXPORT(row_exp);
HWY_EXPORT(row_scale);

namespace {
constexpr int64_t kRows = 8;
}

void cross_entropy_forward(Stream& s, Tensor loss_T, Tensor argmax_T, const Tensor& logits, const Tensor& target_T) {
  const int64_t V = logits.cols();
  parallel_for(s, logits.rows(), kRows, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* x = logits.f32() + t * V;
      const int32_t target = target_T.ptr<int32_t>()[t];
      const float most = HWY_DYNAMIC_DISPATCH(row_max)(x, V);
      if (argmax_T) argmax_T.ptr<int32_t>()[t] = static_cast<int32_t>(std::min(std::find(x, x + V, most) - x, V - 1));
      loss_T.f32()[t] =
          target < 0 ? 0.0f : std::log(HWY_DYNAMIC_DISPATCH(row_exp)(nullptr, x, V, most)) + (most - x[target]);
    }
  });
}

void cross_entropy_backward(Stream& s, Tensor loss_T, Tensor dlogits, const Tensor& logits, const Tensor& target_T,
                            float scale) {
  const int64_t V = logits.cols();
  parallel_for(s, logits.rows(), kRows, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* x = logits.f32() + t * V;
      const int32_t target = target_T.ptr<int32_t>()[t];
      if (target < 0) {
        std::fill(x, x + V, 0.0f);
        loss_T.f32()[t] = 0.0f;
      } else {
        const float most = HWY_DYNAMIC_DISPATCH(row_max)(x, V), logit = x[target];
        const float total = HWY_DYNAMIC_DISPATCH(row_exp)(x, x, V, most);
        loss_T.f32()[t] = std::log(total) + (most - logit);
        HWY_DYNAMIC_DISPATCH(row_scale)(x, V, scale / total);
        x[target] -= scale;
      }
      if (dlogits.data != logits.data) convert(dlogits.at(t), dlogits.dtype, x, DType::f32, V);
    }
  });
}

}  // namespace sluice::cpu
#endif  // HWY_ONCE
