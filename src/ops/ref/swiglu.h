// Reference of ops/swiglu.h (specification 1.5).
#pragma once
#include "ops/ref/mat.h"

namespace sluice::ref {

/// h = silu(g) u, silu(z) = z sigmoid(z).
template <class C>
Mat<C> swiglu(const Mat<C>& g, const Mat<C>& u) {
  Mat<C> h(g.rows, g.cols);
  for (int64_t i = 0; i < g.size(); ++i) h[i] = g[i] * sigmoid(g[i]) * u[i];
  return h;
}

}  // namespace sluice::ref
