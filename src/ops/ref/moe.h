// Reference of ops/moe.h: V3's router (specification 3.1), V2's (3.4), balance loss (3.6), bias update (3.5) and the
// permutation of tokens (3.9).
#pragma once
#include <limits>
#include <numeric>

#include "ops/moe.h"
#include "ops/ref/mat.h"

namespace sluice::ref {

/// Indices of the k largest values, largest first, the lowest index of equals first.
inline std::vector<int64_t> top_k(const std::vector<double>& values, int64_t k) {
  std::vector<int64_t> index(values.size());
  std::iota(index.begin(), index.end(), 0);
  std::stable_sort(index.begin(), index.end(), [&](int64_t a, int64_t b) {
    return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
  });
  index.resize(static_cast<size_t>(k));
  return index;
}

/// Steps 4 and 5: -inf into the values z of all experts outside of the best `topk_group` groups.
inline void mask_groups(std::vector<double>& z, const RouterConfig& c) {
  const int64_t size = static_cast<int64_t>(z.size()) / c.n_group;
  const int64_t counted = c.method == TopkMethod::noaux_tc ? std::min<int64_t>(2, size) : 1;
  std::vector<double> group_score;
  for (int64_t g = 0; g < c.n_group; ++g) {
    const std::vector<double> members(z.begin() + g * size, z.begin() + (g + 1) * size);
    double sum = 0;
    for (int64_t i : top_k(members, counted)) sum += members[static_cast<size_t>(i)];
    group_score.push_back(sum);
  }
  std::vector<bool> kept(static_cast<size_t>(c.n_group));
  for (int64_t g : top_k(group_score, c.topk_group)) kept[static_cast<size_t>(g)] = true;
  for (size_t e = 0; e < z.size(); ++e)
    if (!kept[e / static_cast<size_t>(size)]) z[e] = -std::numeric_limits<double>::infinity();
}

template <class C>
struct Routing {
  Mat<C> score;         // (T, E)
  Mat<int64_t> choice;  // (T, K)
  Mat<C> weight;        // (T, K)
};

/// Affinities of one row of logits.
template <class C>
std::vector<C> affinity(const std::vector<C>& logits, Scoring scoring) {
  if (scoring == Scoring::softmax) return softmax(logits);
  std::vector<C> s;
  for (const C& z : logits) s.push_back(sigmoid(z));
  return s;
}

/// `bias` (1, E) or empty: for selection only.
template <class C>
Routing<C> route(const Mat<C>& logits, const Mat<double>& bias, const RouterConfig& c) {
  Routing<C> out{Mat<C>(logits.rows, logits.cols), Mat<int64_t>(logits.rows, c.top_k), Mat<C>(logits.rows, c.top_k)};
  const bool v3 = c.method == TopkMethod::noaux_tc;
  const bool normalised = c.norm_topk_prob && (v3 || c.top_k > 1);
  for (int64_t t = 0; t < logits.rows; ++t) {
    const std::vector<C> s = affinity(row(logits, t), c.scoring);
    std::vector<double> z;
    for (int64_t e = 0; e < logits.cols; ++e) {
      out.score(t, e) = s[static_cast<size_t>(e)];
      z.push_back(std::real(out.score(t, e)) + (bias.size() ? bias[e] : 0));
    }
    if (c.n_group > 1 && c.method != TopkMethod::greedy) mask_groups(z, c);
    const std::vector<int64_t> chosen = top_k(z, c.top_k);
    C sum = 0;
    for (int64_t e : chosen) sum += out.score(t, e);
    for (int64_t k = 0; k < c.top_k; ++k) {
      out.choice(t, k) = chosen[static_cast<size_t>(k)];
      out.weight(t, k) = out.score(t, out.choice(t, k));
      if (normalised) out.weight(t, k) /= sum + 1e-20;
      if (v3 || !normalised) out.weight(t, k) *= static_cast<double>(c.scale);
    }
  }
  return out;
}

template <class C>
struct Balance {
  Mat<C> loss;    // (1, B)
  Mat<double> f;  // (B, E)
};

/// Sequence-wise balance loss with alpha 1 of B sequences; `choice` empty: counts of the unbiased top k of all experts.
template <class C>
Balance<C> balance(const Mat<C>& score, const Mat<int64_t>& choice, int64_t batch, int64_t k) {
  const int64_t tokens = score.rows / batch, experts = score.cols;
  const double length = static_cast<double>(tokens);
  Balance<C> out{Mat<C>(1, batch), Mat<double>(batch, experts)};
  for (int64_t b = 0; b < batch; ++b) {
    std::vector<C> p(static_cast<size_t>(experts));
    for (int64_t t = b * tokens; t < (b + 1) * tokens; ++t) {
      std::vector<double> values;
      for (const C& s : row(score, t)) values.push_back(std::real(s));
      for (int64_t e : choice.size() ? row(choice, t) : top_k(values, k))
        out.f(b, e) += static_cast<double>(experts) / (static_cast<double>(k) * length);
      C sum = 0;
      for (int64_t e = 0; e < experts; ++e) sum += score(t, e);
      for (int64_t e = 0; e < experts; ++e) p[static_cast<size_t>(e)] += score(t, e) / sum / length;
    }
    for (int64_t e = 0; e < experts; ++e) out.loss[b] += out.f(b, e) * p[static_cast<size_t>(e)];
  }
  return out;
}

struct Permutation {
  std::vector<int64_t> offsets;      // E + 1
  std::vector<int64_t> row_of;       // T K: row of slot t K + k
  std::vector<int64_t> slot_of_row;  // R = T K
};

/// Rows sorted by expert, within an expert by slot.
inline Permutation permute(const Mat<int64_t>& choice, int64_t experts) {
  Permutation p{{0}, std::vector<int64_t>(choice.data.size()), {}};
  for (int64_t e = 0; e < experts; ++e) {
    for (int64_t slot = 0; slot < choice.size(); ++slot)
      if (choice[slot] == e) {
        p.row_of[static_cast<size_t>(slot)] = static_cast<int64_t>(p.slot_of_row.size());
        p.slot_of_row.push_back(slot);
      }
    p.offsets.push_back(static_cast<int64_t>(p.slot_of_row.size()));
  }
  return p;
}

/// x_RD[r] = x_TD[slot_of_row[r] / k].
template <class C>
Mat<C> gather(const Mat<C>& x, const std::vector<int64_t>& slot_of_row, int64_t k) {
  Mat<C> out(static_cast<int64_t>(slot_of_row.size()), x.cols);
  for (int64_t r = 0; r < out.rows; ++r)
    for (int64_t i = 0; i < x.cols; ++i) out(r, i) = x(slot_of_row[static_cast<size_t>(r)] / k, i);
  return out;
}

/// y_TD[t] = sum over k of weight_TK[t, k] y_RD[row_of[t, k]].
template <class C>
Mat<C> combine(const Mat<C>& y, const Mat<C>& weight, const std::vector<int64_t>& row_of) {
  Mat<C> out(weight.rows, y.cols);
  for (int64_t slot = 0; slot < weight.size(); ++slot)
    for (int64_t i = 0; i < y.cols; ++i)
      out(slot / weight.cols, i) += weight[slot] * y(row_of[static_cast<size_t>(slot)], i);
  return out;
}

/// b_e += speed sign(mean count - count_e), sign(0) = 0.
inline void bias_update(Mat<double>& bias, const std::vector<int64_t>& counts, double speed) {
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  for (int64_t e = 0; e < bias.size(); ++e) {
    const int64_t above = total - counts[static_cast<size_t>(e)] * static_cast<int64_t>(counts.size());
    bias[e] += above > 0 ? speed : above < 0 ? -speed : 0;
  }
}

}  // namespace sluice::ref
