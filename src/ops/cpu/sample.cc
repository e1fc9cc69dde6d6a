#include "ops/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cpu/sample_cut.h"

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

/// sum exp(x - shift), in float32 per lane over kSumBlock elements, then in double.
double sum_exponentials(const float* x, int64_t n, float shift) {
  constexpr int64_t kSumBlock = 4096;
  const V vshift = hn::Set(F(), shift);
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    const int64_t end = std::min(n, begin + kSumBlock);
    V part = hn::Zero(F());
    int64_t i = begin;
    for (; i + lanes() <= end; i += lanes()) part = hn::Add(part, hn::Exp(F(), hn::Sub(load(x + i), vshift)));
    sum += static_cast<double>(hn::GetLane(hn::SumOfLanes(F(), part)));
    for (; i < end; ++i) sum += std::exp(static_cast<double>(x[i] - shift));
  }
  return sum;
}

void scale(float* y, int64_t n, float factor) {
  for (int64_t i = 0; i < n; i += lanes()) store_n(hn::Mul(load_n(y + i, n - i), hn::Set(F(), factor)), y + i, n - i);
}

using F64 = hn::ScalableTag<double>;
using U64 = hn::RebindToUnsigned<F64>;
using VU64 = hn::Vec<U64>;

double total(const float* x, int64_t n) {
  const F64 d;
  const hn::Rebind<float, F64> df;
  const int64_t step = static_cast<int64_t>(hn::Lanes(d));
  auto even = hn::Zero(d), odd = even;
  int64_t i = 0;
  for (; i + 2 * step <= n; i += 2 * step) {
    even = hn::Add(even, hn::PromoteTo(d, hn::LoadU(df, x + i)));
    odd = hn::Add(odd, hn::PromoteTo(d, hn::LoadU(df, x + i + step)));
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  for (; i < n; ++i) sum += static_cast<double>(x[i]);
  return sum;
}

/// As in base/rng.h.
HWY_INLINE VU64 mix64(VU64 z) {
  const U64 d;
  z = hn::Add(z, hn::Set(d, 0x9e3779b97f4a7c15ull));
  z = hn::Mul(hn::Xor(z, hn::ShiftRight<30>(z)), hn::Set(d, 0xbf58476d1ce4e5b9ull));
  z = hn::Mul(hn::Xor(z, hn::ShiftRight<27>(z)), hn::Set(d, 0x94d049bb133111ebull));
  return hn::Xor(z, hn::ShiftRight<31>(z));
}

/// The first to arrive so far.
struct Winner {
  double time = std::numeric_limits<double>::infinity();
  int64_t id = 0;

  void meet(int64_t i, float p, Rng noise) {
    if (!(p > 0)) return;
    noise.set_counter(static_cast<uint64_t>(i));
    const double arrival = -std::log1p(-noise.uniform()) / static_cast<double>(p);
    if (arrival >= time) return;
    time = arrival;
    id = i;
  }
};

/// Who arrives first. Logarithms are for the few that could: E = -log(1 - u) >= u.
int64_t race(const float* p, int64_t n, const Rng& noise) {
  const F64 d;
  const U64 du;
  const hn::RebindToSigned<F64> di;
  const hn::Rebind<float, F64> df;
  const int64_t step = static_cast<int64_t>(hn::Lanes(d));
  const VU64 key = hn::Set(du, noise.key());
  Winner winner;
  int64_t i = 0;
  for (; i + step <= n; i += step) {
    const VU64 bits = mix64(hn::Xor(key, mix64(hn::Iota(du, static_cast<uint64_t>(i)))));
    const auto u = hn::Mul(hn::ConvertTo(d, hn::BitCast(di, hn::ShiftRight<11>(bits))), hn::Set(d, 0x1p-53));
    const auto latest = hn::Mul(hn::Set(d, winner.time), hn::PromoteTo(d, hn::LoadU(df, p + i)));
    // Not u < latest: before the first arrival that is infinity, or NaN where p is 0.
    if (hn::AllTrue(d, hn::Ge(u, latest))) continue;
    for (int64_t j = i; j < i + step; ++j) winner.meet(j, p[j], noise);
  }
  for (; i < n; ++i) winner.meet(i, p[i], noise);
  return winner.id;
}

/// Sum of the p that come before p[id]: that are larger, or equal and of a lower id.
double sum_before(const float* p, int64_t n, int64_t id) {
  constexpr int64_t kSumBlock = 4096;
  const V own = hn::Set(F(), p[id]);
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    const int64_t end = std::min(n, begin + kSumBlock);
    V part = hn::Zero(F());
    int64_t i = begin;
    for (; i + lanes() <= end; i += lanes()) {
      const V x = load(p + i);
      const auto is_before = i + lanes() <= id ? hn::Ge(x, own) : hn::Gt(x, own);
      part = hn::Add(part, hn::IfThenElseZero(is_before, x));
    }
    sum += static_cast<double>(hn::GetLane(hn::SumOfLanes(F(), part)));
    for (; i < end; ++i)
      if (p[i] > p[id]) sum += static_cast<double>(p[i]);
  }
  for (int64_t i = id / lanes() * lanes(); i < id; ++i)
    if (p[i] == p[id]) sum += static_cast<double>(p[i]);
  return sum;
}

/// The first index of `value` in x; n where there is none.
int64_t first_of(const float* x, int64_t n, float value) {
  const V wanted = hn::Set(F(), value);
  int64_t i = 0;
  while (i + lanes() <= n && hn::AllFalse(F(), hn::Eq(load(x + i), wanted))) i += lanes();
  while (i < n && x[i] != value) ++i;
  return i;
}

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice::cpu {

HWY_EXPORT(largest);
HWY_EXPORT(exponentials);
HWY_EXPORT(sum_exponentials);
HWY_EXPORT(scale);
HWY_EXPORT(total);
HWY_EXPORT(race);
HWY_EXPORT(sum_before);
HWY_EXPORT(first_of);

namespace {

/// Below this the softmax is one-hot in float32 anyway, and dividing by it could overflow.
constexpr float kColdest = 1e-5f;

void add_biases(float* p, int64_t V, const SamplingState& state) {
  for (int64_t i = 0; i < state.bias_ids.size(); ++i) {
    const int32_t id = state.bias_ids.ptr<int32_t>()[i];
    if (id < V) p[id] += state.biases.f32()[i];
  }
}

void penalise(float* p, int64_t V, const SamplingRule& rule, const SamplingState& state) {
  const int32_t* ids = state.seen.ptr<int32_t>();
  const int32_t* counts = state.counts ? state.counts.ptr<int32_t>() : nullptr;
  for (int64_t i = 0; i < state.seen.size(); ++i) {
    if (ids[i] >= V) continue;
    float& logit = p[ids[i]];
    logit = logit > 0 ? logit / rule.repetition_penalty : logit * rule.repetition_penalty;
    if (counts && counts[i] > 0)
      logit -= static_cast<float>(counts[i]) * rule.frequency_penalty + rule.presence_penalty;
  }
}

void forbid(float* p, int64_t limit, const Tensor& allowed) {
  const int64_t* words = allowed.ptr<int64_t>();
  for (int64_t begin = 0; begin < limit; begin += 64) {
    const uint64_t word = static_cast<uint64_t>(words[begin / 64]);
    if (word == ~uint64_t{0}) continue;
    for (int64_t i = begin; i < std::min(limit, begin + 64); ++i)
      if (!(word >> (i - begin) & 1)) p[i] = -std::numeric_limits<float>::infinity();
  }
}

/// Whether `state` changes logits at all.
bool changes(const SamplingState& state) {
  return (state.seen && state.seen.size() > 0) || (state.bias_ids && state.bias_ids.size() > 0) || state.allowed;
}

/// p = logits as `state` changes them; p may be logits.
void change(float* p, const float* logits, int64_t V, int64_t limit, const SamplingRule& rule,
            const SamplingState& state) {
  if (p != logits) std::copy_n(logits, V, p);
  if (state.bias_ids) add_biases(p, V, state);
  if (state.seen) penalise(p, V, rule, state);
  if (state.allowed) forbid(p, limit, state.allowed);
}

/// p = exp((logits - the largest) / temperature).
void soften(float* p, const float* logits, int64_t limit, float most, const SamplingRule& rule) {
  HWY_DYNAMIC_DISPATCH(exponentials)(p, logits, limit, most, 1.0f / std::max(rule.temperature, kColdest));
}

void distribution_row(float* p, const float* logits, int64_t V, int64_t limit, const SamplingRule& rule) {
  const float most = HWY_DYNAMIC_DISPATCH(largest)(logits, limit);
  if (most == -std::numeric_limits<float>::infinity()) {
    std::fill_n(p, V, 0.0f);
    return;
  }
  if (rule.temperature == 0) {
    const int64_t best = HWY_DYNAMIC_DISPATCH(first_of)(logits, limit, most);
    std::fill_n(p, V, 0.0f);
    if (best < limit) p[best] = 1;
    return;
  }
  soften(p, logits, limit, most, rule);
  std::fill(p + limit, p + V, 0.0f);
  cut_tail(p, limit, rule);
  HWY_DYNAMIC_DISPATCH(scale)(p, limit, static_cast<float>(1.0 / HWY_DYNAMIC_DISPATCH(total)(p, limit)));
}

/// Whether the cuts other than top_k leave id, which is possible.
bool is_left(const float* p, int64_t n, int64_t id, const SamplingRule& rule) {
  if (p[id] < rule.min_p) return false;
  return rule.top_p == 1 || HWY_DYNAMIC_DISPATCH(sum_before)(p, n, id) <
                                static_cast<double>(rule.top_p) * HWY_DYNAMIC_DISPATCH(total)(p, n);
}

}  // namespace

void argmax(Stream& s, Tensor ids_T, const Tensor& logits, int64_t limit) {
  s.pool().run(logits.rows(), [&](int64_t t, int) {
    const float* row = static_cast<const float*>(logits.at(t));
    const int64_t best = HWY_DYNAMIC_DISPATCH(first_of)(row, limit, HWY_DYNAMIC_DISPATCH(largest)(row, limit));
    ids_T.ptr<int32_t>()[t] = static_cast<int32_t>(best < limit ? best : 0);  // a row of NaN has no largest element
  });
}

void sampling_distribution(Stream& s, Tensor p, const Tensor& logits, int64_t limit, const SamplingRule& rule,
                           const SamplingState& state) {
  const int64_t V = logits.cols();
  s.pool().run(logits.rows(), [&](int64_t t, int) {
    float* out = static_cast<float*>(p.at(t));
    const float* row = static_cast<const float*>(logits.at(t));
    if (changes(state)) {
      change(out, row, V, limit, rule, state);
      row = out;
    }
    distribution_row(out, row, V, limit, rule);
  });
}

int32_t draw(Stream&, Tensor work, const Tensor& logits, int64_t limit, const SamplingRule& rule,
             const SamplingState& state, const Rng& noise) {
  float* p = work.f32();
  const float* x = logits.f32();
  if (changes(state)) {
    change(p, x, logits.cols(), limit, rule, state);
    x = p;
  }
  const float most = HWY_DYNAMIC_DISPATCH(largest)(x, limit);
  if (most == -std::numeric_limits<float>::infinity()) return 0;
  if (rule.temperature == 0) {
    const int64_t best = HWY_DYNAMIC_DISPATCH(first_of)(x, limit, most);
    return static_cast<int32_t>(best < limit ? best : 0);  // a row of NaN has no largest element
  }
  soften(p, x, limit, most, rule);
  if (rule.top_k == 0) {  // whether an id is among the k is as dear to tell as to find them all
    const int64_t first = HWY_DYNAMIC_DISPATCH(race)(p, limit, noise);
    if (is_left(p, limit, first, rule)) return static_cast<int32_t>(first);
  }
  cut_tail(p, limit, rule);
  return static_cast<int32_t>(HWY_DYNAMIC_DISPATCH(race)(p, limit, noise));
}

void log_sum_exp(Stream& s, Tensor total_T, const Tensor& logits) {
  s.pool().run(logits.rows(), [&](int64_t t, int) {
    const float* row = static_cast<const float*>(logits.at(t));
    const float most = HWY_DYNAMIC_DISPATCH(largest)(row, logits.cols());
    const double sum = HWY_DYNAMIC_DISPATCH(sum_exponentials)(row, logits.cols(), most);
    total_T.f32()[t] = most + static_cast<float>(std::log(sum));
  });
}

}  // namespace sluice::cpu
#endif  // HWY_ONCE
