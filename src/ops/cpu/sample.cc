#include "ops/sample.h"

#include <algorithm>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/sample.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/contrib/math/math-inl.h"
#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {

float largest(const float* x, int64_t n) {
  V most = hn::Set(F(), x[0]);
  int64_t i = 0;
  for (; i + lanes() <= n; i += lanes()) most = hn::Max(most, load(x + i));
  float result = hn::GetLane(hn::MaxOfLanes(F(), most));
  for (; i < n; ++i) result = std::max(result, x[i]);
  return result;
}

/// y = exp(scale (x - shift)).
void exponentials(float* y, const float* x, int64_t n, float shift, float scale) {
  const V vshift = hn::Set(F(), shift), vscale = hn::Set(F(), scale);
  for (int64_t i = 0; i < n; i += lanes())
    store_n(hn::Exp(F(), hn::Mul(hn::Sub(load_n(x + i, n - i), vshift), vscale)), y + i, n - i);
}

void scale(float* y, int64_t n, float factor) {
  for (int64_t i = 0; i < n; i += lanes()) store_n(hn::Mul(load_n(y + i, n - i), hn::Set(F(), factor)), y + i, n - i);
}

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice::cpu {

HWY_EXPORT(largest);
HWY_EXPORT(exponentials);
HWY_EXPORT(scale);

namespace {

/// Below this the softmax is one-hot in float32 anyway, and dividing by it could overflow.
constexpr float kColdest = 1e-5f;

double total(const float* p, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += p[i];
  return sum;
}

/// Sets all but the most probable ids to 0: at most top_k, and no more than needed for the share top_p of their sum.
void cut_tail(float* p, int64_t n, const SamplingRule& rule) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i)
    if (p[i] > 0) ids.push_back(static_cast<int32_t>(i));
  const auto before = [p](int32_t a, int32_t b) { return p[a] > p[b] || (p[a] == p[b] && a < b); };
  if (rule.top_k > 0 && rule.top_k < static_cast<int64_t>(ids.size())) {
    std::nth_element(ids.begin(), ids.begin() + rule.top_k, ids.end(), before);
    for (size_t i = static_cast<size_t>(rule.top_k); i < ids.size(); ++i) p[ids[i]] = 0;
    ids.resize(static_cast<size_t>(rule.top_k));
  }
  if (rule.top_p >= 1) return;
  std::sort(ids.begin(), ids.end());  // so that the sum does not depend on how nth_element left them
  double left = 0;
  for (const int32_t id : ids) left += p[id];
  left *= rule.top_p;
  const auto after = [&](int32_t a, int32_t b) { return before(b, a); };
  std::make_heap(ids.begin(), ids.end(), after);
  while (!ids.empty() && left > 0) {  // take the most probable ones out of the heap; what is left in it goes
    left -= p[ids.front()];
    std::pop_heap(ids.begin(), ids.end(), after);
    ids.pop_back();
  }
  for (const int32_t id : ids) p[id] = 0;
}

void distribution_row(float* p, const float* logits, int64_t V, int64_t limit, const SamplingRule& rule) {
  const float most = HWY_DYNAMIC_DISPATCH(largest)(logits, limit);
  if (rule.temperature == 0) {
    const int64_t best = std::find(logits, logits + limit, most) - logits;
    std::fill_n(p, V, 0.0f);
    if (best < limit) p[best] = 1;
    return;
  }
  HWY_DYNAMIC_DISPATCH(exponentials)(p, logits, limit, most, 1.0f / std::max(rule.temperature, kColdest));
  std::fill(p + limit, p + V, 0.0f);
  if (rule.top_k > 0 || rule.top_p < 1) cut_tail(p, limit, rule);
  HWY_DYNAMIC_DISPATCH(scale)(p, limit, static_cast<float>(1.0 / total(p, limit)));
}

}  // namespace

void argmax(Stream& s, Tensor ids_T, const Tensor& logits, int64_t limit) {
  s.pool().run(logits.rows(), [&](int64_t t, int) {
    const float* row = static_cast<const float*>(logits.at(t));
    const int64_t best = std::find(row, row + limit, HWY_DYNAMIC_DISPATCH(largest)(row, limit)) - row;
    ids_T.ptr<int32_t>()[t] = static_cast<int32_t>(best < limit ? best : 0);  // a row of NaN has no largest element
  });
}

void sampling_distribution(Stream& s, Tensor p, const Tensor& logits, int64_t limit, const SamplingRule& rule) {
  s.pool().run(logits.rows(), [&](int64_t t, int) {
    distribution_row(static_cast<float*>(p.at(t)), static_cast<const float*>(logits.at(t)), logits.cols(), limit, rule);
  });
}

}  // namespace sluice::cpu
#endif  // HWY_ONCE
