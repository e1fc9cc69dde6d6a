// Reference of ops/sample.h: the same steps on a sorted list, in float64.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "ops/sample.h"

namespace sluice::ref {

/// All ids below V.
struct SamplingState {
  std::vector<int32_t> seen, counts;  // counts: as long as seen, or empty
  std::vector<std::pair<int32_t, double>> biases;
  std::vector<size_t> forbidden;
};

/// The distribution of one row of logits; temperature > 0.
inline std::vector<double> sampling_distribution(std::vector<double> logits, int64_t limit, const SamplingRule& rule,
                                                 const SamplingState& state) {
  const double penalty = rule.repetition_penalty, temperature = rule.temperature;
  for (const auto& [id, bias] : state.biases) logits.at(static_cast<size_t>(id)) += bias;
  for (size_t i = 0; i < state.seen.size(); ++i) {
    double& logit = logits.at(static_cast<size_t>(state.seen[i]));
    const double count = state.counts.empty() ? 0 : state.counts[i];
    logit = logit > 0 ? logit / penalty : logit * penalty;
    logit -= count * static_cast<double>(rule.frequency_penalty);
    logit -= count > 0 ? static_cast<double>(rule.presence_penalty) : 0;
  }
  std::vector<size_t> order(static_cast<size_t>(limit));
  std::iota(order.begin(), order.end(), size_t{0});
  std::erase_if(order, [&](size_t id) {
    return std::find(state.forbidden.begin(), state.forbidden.end(), id) != state.forbidden.end();
  });
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (rule.top_k > 0 && rule.top_k < static_cast<int64_t>(order.size())) order.resize(static_cast<size_t>(rule.top_k));

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
