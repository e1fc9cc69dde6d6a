// The optimiser's updates (specification 7.3).  w master weights f32; g gradient f32; m, v moments f32|bf16 (one
// dtype): packed tensors of one size.
#pragma once
#include "base/stream.h"
#include "base/tensor.h"

namespace sluice {

struct AdamW {
  float lr, beta1, beta2, eps, weight_decay;
  float grad_scale;  // clipping: multiplies every gradient
  int64_t step;      // 1 for the first update: bias correction
};

/// m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  w -= lr (mhat / (sqrt(vhat) + eps) + weight_decay w).
/// bf16 moments are rounded to nearest even; w is updated from the unrounded ones.
void adamw_step(Stream& s, Tensor w, Tensor m, Tensor v, const Tensor& g, const AdamW& config);

/// sum_1 (f64, 1 value) += sum of x^2 in double, in an order that depends on x.size() alone. x f32.
void sum_squares(Stream& s, Tensor sum_1, const Tensor& x);

/// average = decay * average + (1 - decay) * w. Both f32.
void ema_update(Stream& s, Tensor average, const Tensor& w, float decay);

namespace cpu {
decltype(sluice::adamw_step) adamw_step;
decltype(sluice::sum_squares) sum_squares;
decltype(sluice::ema_update) ema_update;
}  // namespace cpu
namespace cuda {
decltype(sluice::adamw_step) adamw_step;
decltype(sluice::sum_squares) sum_squares;
decltype(sluice::ema_update) ema_update;
}  // namespace cuda

}  // namespace sluice
