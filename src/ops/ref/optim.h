// Reference of ops/optim.h (specification 7.3): Adam with decoupled weight decay (arXiv:1711.05101).
#pragma once
#include "ops/optim.h"
#include "ops/ref/mat.h"

namespace sluice::ref {

/// One update of w with moments m and v.
template <class C>
void adamw(Mat<C>& w, Mat<C>& m, Mat<C>& v, const Mat<C>& gradient, const AdamW& a) {
  const double beta1 = a.beta1, beta2 = a.beta2, steps = static_cast<double>(a.step);
  for (int64_t i = 0; i < w.size(); ++i) {
    const C g = gradient[i] * static_cast<double>(a.grad_scale);
    m[i] = beta1 * m[i] + (1 - beta1) * g;
    v[i] = beta2 * v[i] + (1 - beta2) * g * g;
    const C m_hat = m[i] / (1 - std::pow(beta1, steps)), v_hat = v[i] / (1 - std::pow(beta2, steps));
    const C decayed = static_cast<double>(a.weight_decay) * w[i];
    w[i] -= static_cast<double>(a.lr) * (m_hat / (std::sqrt(v_hat) + static_cast<double>(a.eps)) + decayed);
  }
}

template <class C>
C sum_squares(const Mat<C>& x) {
  C sum = 0;
  for (const C& v : x.data) sum += v * v;
  return sum;
}

/// decay average + (1 - decay) w.
template <class C>
Mat<C> ema(const Mat<C>& average, const Mat<C>& w, double decay) {
  Mat<C> out(w.rows, w.cols);
  for (int64_t i = 0; i < w.size(); ++i) out[i] = decay * average[i] + (1 - decay) * w[i];
  return out;
}

}  // namespace sluice::ref
