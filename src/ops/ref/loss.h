// Reference of ops/loss.h.
#pragma once
#include "ops/ref/mat.h"

namespace sluice::ref {

/// (1, T): log sum_v exp(logits_tv) - logits_t,target; 0 where the target is -1.
template <class C>
Mat<C> cross_entropy(const Mat<C>& logits, const std::vector<int64_t>& target) {
  Mat<C> loss(1, logits.rows);
  for (int64_t t = 0; t < logits.rows; ++t) {
    if (target[static_cast<size_t>(t)] < 0) continue;
    loss[t] = log_sum_exp(row(logits, t)) - logits(t, target[static_cast<size_t>(t)]);
  }
  return loss;
}

/// The column of the largest value of each row, the lowest of equals.
inline std::vector<int64_t> argmax(const Mat<double>& m) {
  std::vector<int64_t> best;
  for (int64_t t = 0; t < m.rows; ++t) {
    const std::vector<double> values = row(m, t);
    best.push_back(std::max_element(values.begin(), values.end()) - values.begin());
  }
  return best;
}

}  // namespace sluice::ref
