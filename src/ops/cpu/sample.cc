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

struct Candidate {
  float p;
  int32_t id;
};

bool before(const Candidate& a, const Candidate& b) { return a.p > b.p || (a.p == b.p && a.id < b.id); }

/// How many of the most probable candidates it takes to hold `share` of their sum; they are moved to the front. Halves
/// the range that holds the last of them, so that nothing need be sorted.
int64_t count_for_share(std::vector<Candidate>& c, double share) {
  double left = 0;
  for (const Candidate& x : c) left += static_cast<double>(x.p);
  left *= share;
  auto begin = c.begin(), end = c.end();
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, before);
    double sum = 0;
    for (auto i = begin; i != middle; ++i) sum += static_cast<double>(i->p);
    if (sum >= left) {
      end = middle;
    } else {
      left -= sum;
      begin = middle;
    }
  }
  return end - c.begin();
}

/// Sets all but the most probable ids to 0: at most top_k, of these no more than needed for the share top_p of their
/// sum, of these the ones not below min_p of the largest.
void cut_tail(float* p, int64_t n, const SamplingRule& rule) {
  std::vector<Candidate> c;
  c.reserve(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i)
    if (p[i] > 0) c.push_back({p[i], static_cast<int32_t>(i)});
  if (rule.top_k > 0 && rule.top_k < static_cast<int64_t>(c.size())) {
    std::nth_element(c.begin(), c.begin() + rule.top_k, c.end(), before);
    c.resize(static_cast<size_t>(rule.top_k));
  }
  if (rule.top_p < 1) c.resize(static_cast<size_t>(count_for_share(c, static_cast<double>(rule.top_p))));
  float most = 0;
  for (const Candidate& x : c) most = std::max(most, x.p);
  std::fill_n(p, n, 0.0f);
  for (const Candidate& x : c)
    if (x.p >= rule.min_p * most) p[x.id] = x.p;
}

/// p = logits with the repetition penalty; p may be logits.
void penalise(float* p, const float* logits, int64_t V, const Tensor& seen, float penalty) {
  if (p != logits) std::copy_n(logits, V, p);
  const int32_t* ids = seen.ptr<int32_t>();
  for (int64_t i = 0; i < seen.size(); ++i) {
    if (ids[i] >= V) continue;
    float& logit = p[ids[i]];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
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
  if (rule.top_k > 0 || rule.top_p < 1 || rule.min_p > 0) cut_tail(p, limit, rule);
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

void sampling_distribution(Stream& s, Tensor p, const Tensor& logits, int64_t limit, const SamplingRule& rule,
                           const Tensor& seen) {
  const int64_t V = logits.cols();
  s.pool().run(logits.rows(), [&](int64_t t, int) {
    float* out = static_cast<float*>(p.at(t));
    const float* row = static_cast<const float*>(logits.at(t));
    if (seen && rule.repetition_penalty != 1) {
      penalise(out, row, V, seen, rule.repetition_penalty);
      row = out;
    }
    distribution_row(out, row, V, limit, rule);
  });
}

}  // namespace sluice::cpu
#endif  // HWY_ONCE
