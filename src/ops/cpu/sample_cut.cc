#include "ops/cpu/sample_cut.h"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

namespace sluice::cpu {
namespace {

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

/// Floats of the same exponent and the same four bits after it; a larger bucket holds larger ones. The last begins just
/// below 2, which exponentials do not reach: NaN is there.
constexpr size_t kBuckets = size_t{1} << 11;
size_t bucket_of(float p) { return std::min<size_t>(std::bit_cast<uint32_t>(p) >> 19, kBuckets - 1); }

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

/// The k most probable of the ids whose p is positive, in any order. A second heap of as many is filled before the
/// first are told apart, so that the vocabulary is gone through once.
std::vector<Candidate> most_probable(const float* p, int64_t n, int64_t k) {
  std::vector<Candidate> c;
  const auto keep = [&] {
    std::nth_element(c.begin(), c.begin() + k, c.end(), before);
    c.resize(static_cast<size_t>(k));
  };
  float least = 0;  // what an id must exceed: ids come in order, and of equal ones the lower are kept
  for (int64_t i = 0; i < n; ++i) {
    if (!(p[i] > least)) continue;
    c.push_back({p[i], static_cast<int32_t>(i)});
    if (static_cast<int64_t>(c.size()) < 2 * k) continue;
    keep();
    least = std::max_element(c.begin(), c.end(), before)->p;
  }
  if (static_cast<int64_t>(c.size()) > k) keep();
  return c;
}

/// Sets all but the top_k most probable ids to 0, and of these what the share top_p of their sum does not need.
void cut_ranks(float* p, int64_t n, const SamplingRule& rule) {
  std::vector<Candidate> c = most_probable(p, n, std::min(rule.top_k, n));
  if (rule.top_p < 1) c.resize(static_cast<size_t>(count_for_sum(c, static_cast<double>(rule.top_p) * total(c))));
  std::fill_n(p, n, 0.0f);
  for (const Candidate& x : c) p[x.id] = x.p;
}

}  // namespace

void cut_tail(float* p, int64_t n, const SamplingRule& rule) {
  if (rule.top_k > 0) {
    cut_ranks(p, n, rule);
  } else if (rule.top_p < 1) {
    cut_share(p, n, static_cast<double>(rule.top_p));
  }
  if (rule.min_p == 0) return;
  for (int64_t i = 0; i < n; ++i)
    if (p[i] < rule.min_p) p[i] = 0;
}

}  // namespace sluice::cpu
