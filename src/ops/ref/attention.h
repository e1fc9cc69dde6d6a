// Reference of ops/attention.h (specification 2.2).
#pragma once
#include "ops/attention.h"
#include "ops/ref/mat.h"

namespace sluice::ref {

template <class C>
struct Attention {
  Mat<C> o, lse;  // (T, H value), (T, H)
};

/// The score of query row t and key row j (rows of the whole batch) in head h.
template <class C>
C attention_score(const Mat<C>& q, const Mat<C>& kv, const Mat<C>& k_rope, const AttentionShape& a, int64_t h,
                  int64_t t, int64_t j) {
  C sum = 0;
  for (int64_t i = 0; i < a.nope; ++i) sum += q(t, h * (a.nope + a.rope) + i) * kv(j, h * (a.nope + a.value) + i);
  for (int64_t i = 0; i < a.rope; ++i) sum += q(t, h * (a.nope + a.rope) + a.nope + i) * k_rope(j, i);
  return sum * static_cast<double>(a.scale);
}

/// Softmax over the tokens first_T[t] <= j <= t of the same sequence; empty `first_T`: from the first one on.
template <class C>
Attention<C> attention(const Mat<C>& q, const Mat<C>& kv, const Mat<C>& k_rope, const std::vector<int64_t>& first_T,
                       const AttentionShape& a) {
  Attention<C> out{Mat<C>(q.rows, a.heads * a.value), Mat<C>(q.rows, a.heads)};
  for (int64_t t = 0; t < q.rows; ++t) {
    const int64_t begin = t / a.tokens * a.tokens + (first_T.empty() ? 0 : first_T[static_cast<size_t>(t)]);
    for (int64_t h = 0; h < a.heads; ++h) {
      std::vector<C> score;
      for (int64_t j = begin; j <= t; ++j) score.push_back(attention_score(q, kv, k_rope, a, h, t, j));
      const std::vector<C> p = softmax(score);
      out.lse(t, h) = log_sum_exp(score);
      for (int64_t j = begin; j <= t; ++j)
        for (int64_t i = 0; i < a.value; ++i)
          out.o(t, h * a.value + i) += p[static_cast<size_t>(j - begin)] * kv(j, h * (a.nope + a.value) + a.nope + i);
    }
  }
  return out;
}

}  // namespace sluice::ref
