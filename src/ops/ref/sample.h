// Reference of ops/sample.h: the same steps on a sorted list, in float64.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "ops/sample.h"

namespace sluice::ref {

/// The distribution of one row of logits; temperature > 0.
inline std::vector<double> sampling_distribution(std::vector<double> logits, int64_t limit, const SamplingRule& rule,
                                                 const std::vector<int32_t>& seen) {
  const double penalty = rule.repetition_penalty, temperature = rule.temperature;
  for (const int32_t id : seen) {
    double& logit = logits[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
  std::vector<size_t> order(static_cast<size_t>(limit));
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (rule.top_k > 0 && rule.top_k < limit) order.resize(static_cast<size_t>(rule.top_k));

  std::vector<double> p(logits.size());
  const auto normalise = [&] {
    double total = 0;
    for (const size_t id : order) total += std::exp((logits[id] - logits[order[0]]) / temperature);
    std::fill(p.begin(), p.end(), 0.0);
    for (const size_t id : order) p[id] = std::exp((logits[id] - logits[order[0]]) / temperature) / total;
  };
  normalise();
  size_t kept = 0;
  for (double share = 0; kept < order.size() && share < static_cast<double>(rule.top_p); ++kept)
    share += p[order[kept]];
  order.resize(kept);
  std::erase_if(order, [&, least = static_cast<double>(rule.min_p) * p[order[0]]](size_t id) { return p[id] < least; });
  normalise();
  return p;
}

}  // namespace sluice::ref
