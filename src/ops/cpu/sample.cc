#include "ops/sample.h"

#include <algorithm>
#include <bit>
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

/// Four chains, because each has to wait for its last maximum.
float largest(const float* x, int64_t n) {
  const int64_t step = lanes();
  V a = hn::Set(F(), x[0]), b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + 4 * step <= n; i += 4 * step) {
    a = hn::Max(a, load(x + i));
    b = hn::Max(b, load(x + i + step));
    c = hn::Max(c, load(x + i + 2 * step));
    d = hn::Max(d, load(x + i + 3 * step));
  }
  float result = hn::GetLane(hn::MaxOfLanes(F(), hn::Max(hn::Max(a, b), hn::Max(c, d))));
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

double total(const float* x, int64_t n) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> df;
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

using U32 = hn::RebindToUnsigned<F>;
using VU32 = hn::Vec<U32>;

/// noise_head() of the ids from i on.
HWY_INLINE VU32 noise_heads(uint64_t key, int64_t i) {
  const U32 d;
  VU32 x = hn::Xor(hn::Iota(d, static_cast<uint32_t>(i)), hn::Set(d, static_cast<uint32_t>(key)));
  x = hn::Mul(hn::Xor(x, hn::ShiftRight<16>(x)), hn::Set(d, 0x21f0aaadu));
  x = hn::Xor(hn::Xor(x, hn::ShiftRight<15>(x)), hn::Set(d, static_cast<uint32_t>(key >> 32)));
  x = hn::Mul(x, hn::Set(d, 0x735a2d97u));
  return hn::Xor(x, hn::ShiftRight<15>(x));
}

/// The first to arrive so far.
struct Winner {
  double time = std::numeric_limits<double>::infinity();
  int64_t id = 0;

  void meet(int64_t i, float p, uint64_t key) {
    if (!(p > 0)) return;
    const double arrival = -std::log1p(-noise_uniform(key, static_cast<uint32_t>(i))) / static_cast<double>(p);
    if (arrival > time || (arrival == time && i >= id)) return;
    time = arrival;
    id = i;
  }
};

/// p as they are given to race().
struct Given {
  const float* p;

  V bound(int64_t i) const { return load(p + i); }
  float at(int64_t i) const { return p[i]; }
};

/// p = exp(scale (x - shift)), equal to what exponentials() makes, of which most are not needed to the last bit: 2^(n +
/// f) is at most 2^n (1 + f), which is the float of the bits n + f, with n biased.
struct Exponentials {
  const float* x;
  float shift, scale;

  V bound(int64_t i) const {
    constexpr float kLog2e = 1.44269504f, kBits = 0x1p23f, kBias = 127;
    constexpr float kSlack = 0x1p-11f;  // more than is lost by rounding exponents of up to 127
    const V e = hn::Mul(hn::Sub(load(x + i), hn::Set(F(), shift)), hn::Set(F(), scale * kLog2e));
    const V biased = hn::Max(hn::Add(e, hn::Set(F(), kBias + kSlack)), hn::Set(F(), 1));
    return hn::BitCast(F(), hn::ConvertTo(hn::RebindToSigned<F>(), hn::Mul(biased, hn::Set(F(), kBits))));
  }
  float at(int64_t i) const {
    float p;
    exponentials(&p, x + i, 1, shift, scale);
    return p;
  }
};

/// Who arrives first of n. Logarithms, and p itself, are for the few that could, by the first 24 bits of u and a bound
/// of p from above: E = -log(1 - u) >= u. The favourite is looked at first, so that they are few.
template <class P>
int64_t race_of(const P p, int64_t n, int64_t favourite, uint64_t key) {
  constexpr double kUp = 1 + 0x1p-20;  // more than what rounding to float32 takes away
  const F d;
  const hn::RebindToSigned<F> di;
  Winner winner;
  winner.meet(favourite, p.at(favourite), key);
  int64_t i = 0;
  for (; i + lanes() <= n; i += lanes()) {
    const VU32 head = hn::ShiftRight<8>(noise_heads(key, i));
    const V u = hn::Mul(hn::ConvertTo(d, hn::BitCast(di, head)), hn::Set(d, 0x1p-24f));
    const V latest = hn::Mul(hn::Set(d, static_cast<float>(winner.time * kUp)), p.bound(i));
    // Not u < latest: before the first arrival that is infinity, or NaN where p is 0.
    const auto is_late = hn::Ge(u, latest);
    if (hn::AllTrue(d, is_late)) continue;
    uint64_t in_time = 0;
    hn::StoreMaskBits(d, hn::Not(is_late), reinterpret_cast<uint8_t*>(&in_time));
    for (; in_time != 0; in_time &= in_time - 1) {
      const int64_t j = i + std::countr_zero(in_time);
      winner.meet(j, p.at(j), key);
    }
  }
  for (; i < n; ++i) winner.meet(i, p.at(i), key);
  return winner.id;
}

int64_t race(const float* p, int64_t n, int64_t favourite, uint64_t key) {
  return race_of(Given{p}, n, favourite, key);
}

/// p = exp(scale (x - x of the favourite)).
int64_t race_of_exponentials(const float* x, int64_t n, int64_t favourite, float scale, uint64_t key) {
  return race_of(Exponentials{x, x[favourite], scale}, n, favourite, key);
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
HWY_EXPORT(race_of_exponentials);
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

float scale_of(const SamplingRule& rule) { return 1.0f / std::max(rule.temperature, kColdest); }

/// p = exp((logits - the largest) / temperature).
void soften(float* p, const float* logits, int64_t limit, float most, const SamplingRule& rule) {
  HWY_DYNAMIC_DISPATCH(exponentials)(p, logits, limit, most, scale_of(rule));
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
  const int64_t best = HWY_DYNAMIC_DISPATCH(first_of)(x, limit, most);
  if (best == limit) return 0;  // a row that has NaN may have no largest element
  if (rule.temperature == 0) return static_cast<int32_t>(best);
  int64_t first = -1;
  if (rule.top_k == 0) {  // whether an id is among the k is as dear to tell as to find them all
    first = HWY_DYNAMIC_DISPATCH(race_of_exponentials)(x, limit, best, scale_of(rule), noise.key());
    if (rule.top_p == 1 && rule.min_p == 0) return static_cast<int32_t>(first);
  }
  soften(p, x, limit, most, rule);
  if (first >= 0 && is_left(p, limit, first, rule)) return static_cast<int32_t>(first);
  cut_tail(p, limit, rule);
  return static_cast<int32_t>(HWY_DYNAMIC_DISPATCH(race)(p, limit, best, noise.key()));
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
