#include "ops/sample.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
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

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice::cpu {

HWY_EXPORT(largest);
HWY_EXPORT(exponentials);
HWY_EXPORT(sum_exponentials);
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

double total(const std::vector<Candidate>& c) {
  double sum = 0;
  for (const Candidate& x : c) sum += static_cast<double>(x.p);
  return sum;
}

/// How many of the most probable candidates it takes to hold `left`; they are moved to the front. Halves the range that
/// holds the last of them, so that nothing need be sorted.
int64_t count_for_sum(std::vector<Candidate>& c, double left) {
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

/// Floats of the same exponent and the same four bits after it; a larger bucket holds larger ones.
size_t bucket_of(float p) { return std::bit_cast<uint32_t>(p) >> 19; }
constexpr size_t kBuckets = size_t{1} << 13;

/// Sets all but the most probable ids that hold `share` of the sum to 0. Sums by buckets, so that only one bucket's ids
/// need be told apart: the vocabulary is large, and a text waits for this with each token.
void cut_share(float* p, int64_t n, double share) {
  std::array<double, kBuckets> sums{};
  for (int64_t i = 0; i < n; ++i) sums[bucket_of(p[i])] += static_cast<double>(p[i]);
  double left = 0;
  for (const double sum : sums) left += sum;
  left *= share;
  size_t last = kBuckets - 1;
  while (last > 0 && sums[last] < left) left -= sums[last--];
  std::vector<Candidate> c;
  for (int64_t i = 0; i < n; ++i) {
    const size_t bucket = bucket_of(p[i]);
    if (bucket == last) c.push_back({p[i], static_cast<int32_t>(i)});
    if (bucket <= last) p[i] = 0;
  }
  c.resize(static_cast<size_t>(count_for_sum(c, left)));
  for (const Candidate& x : c) p[x.id] = x.p;
}

/// The same by rank: at most top_k, of these no more than needed for the share top_p of their sum.
void cut_ranks(float* p, int64_t n, const SamplingRule& rule) {
  std::vector<Candidate> c;
  for (int64_t i = 0; i < n; ++i)
    if (p[i] > 0) c.push_back({p[i], static_cast<int32_t>(i)});
  if (rule.top_k < static_cast<int64_t>(c.size())) {
    std::nth_element(c.begin(), c.begin() + rule.top_k, c.end(), before);
    c.resize(static_cast<size_t>(rule.top_k));
  }
  if (rule.top_p < 1) c.resize(static_cast<size_t>(count_for_sum(c, static_cast<double>(rule.top_p) * total(c))));
  std::fill_n(p, n, 0.0f);
  for (const Candidate& x : c) p[x.id] = x.p;
}

/// Sets all but the most probable ids to 0: as top_k and top_p say, of these the ones not below min_p of the largest.
void cut_tail(float* p, int64_t n, const SamplingRule& rule) {
  if (rule.top_k > 0) {
    cut_ranks(p, n, rule);
  } else if (rule.top_p < 1) {
    cut_share(p, n, static_cast<double>(rule.top_p));
  }
  if (rule.min_p == 0) return;
  const float least = rule.min_p * HWY_DYNAMIC_DISPATCH(largest)(p, n);
  for (int64_t i = 0; i < n; ++i)
    if (p[i] < least) p[i] = 0;
}

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

void distribution_row(float* p, const float* logits, int64_t V, int64_t limit, const SamplingRule& rule) {
  const float most = HWY_DYNAMIC_DISPATCH(largest)(logits, limit);
  if (most == -std::numeric_limits<float>::infinity()) {
    std::fill_n(p, V, 0.0f);
    return;
  }
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
