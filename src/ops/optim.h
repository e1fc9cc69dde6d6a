// The optimiser's updates (specification 7.3). Every op takes all tensors of a model at once: on a GPU that is one
// launch.
#pragma once
#include <span>

#include "base/stream.h"
#include "base/tensor.h"
#include "ops/matrix.h"

namespace sluice {

struct AdamW {
  float lr, beta1, beta2, eps, weight_decay;
  float grad_scale;  // clipping: multiplies every gradient
  int64_t step;      // 1 for the first update: bias correction
};

/// w master weights f32; m, v moments f32|bf16 (one dtype for all tensors); g gradient f32: packed tensors of one size.
/// working weights: f32, bf16 or FP8 of the same shape, or empty.
struct AdamWTensor {
  Tensor w, m, v, g;
  Matrix working;
  bool decays = true;    // whether config.weight_decay holds for it
  bool keeps_g = false;  // else g is zero afterwards
};

/// m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  w -= lr (mhat / (sqrt(vhat) + eps) + weight_decay w);
/// working = w (FP8: with plain scales, as quantize_weight());  g = 0 unless it is kept.
/// bf16 moments are rounded to nearest even; w is updated from the unrounded ones.
void adamw_step(Stream& s, std::span<const AdamWTensor> tensors, const AdamW& config);

/// sum_1 (f64, 1 value) += sum of the squares of all elements in double, in an order that depends on their numbers
/// alone. x: packed, f32.
void sum_squares(Stream& s, Tensor sum_1, std::span<const Tensor> x);

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
