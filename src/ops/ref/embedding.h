// Reference of ops/embedding.h.
#pragma once
#include "ops/ref/mat.h"

namespace sluice::ref {

/// x[t] = table[ids[t]].
template <class C>
Mat<C> embedding(const std::vector<int64_t>& ids, const Mat<C>& table) {
  Mat<C> x(static_cast<int64_t>(ids.size()), table.cols);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t i = 0; i < x.cols; ++i) x(t, i) = table(ids[static_cast<size_t>(t)], i);
  return x;
}

}  // namespace sluice::ref
