// Products with a weight in 128 x 128 FP8 blocks: the FP8 recipe of DeepSeek-V3 (specification 5) in exact arithmetic.
// T rows (tokens), K inputs, N outputs. x, y, dx, dy f32|bf16 in any mix, rows may be strided; w has format fp8_128.
//   forward          y  = x w'   x in 1 x 128 tiles along K,            w in its 128 x 128 blocks
//   backward_input   dx = dy w   dy in 1 x 128 tiles along N,           the same blocks of w
//   backward_weight  dw += dy' x dy and x in tiles of 128 tokens x 1 channel; x is first quantised as in forward
// Activations and gradients are quantised here, with power-of-two scales. Every 128 elements of the contraction:
//   sum += partial * (left scale * right scale),  partial = the float32 sum of exact products of codes
// in float32, the sum starting at 0; at the end the output is set to it, or it is added and rounded once.
// The cut into tasks depends on the shapes alone. No rows: forward and backward_input write nothing, backward_weight
// adds nothing. In a grouped product each expert is one call, so its rows begin a new tile of 128 tokens.
#pragma once
#include "base/stream.h"
#include "ops/linear.h"

namespace sluice::cpu {

/// y_TN (=|+=) x_TK w_NK'.
void fp8_linear_forward(Stream& s, Tensor y, const Tensor& x, const Matrix& w, Out out);
/// dx_TK (=|+=) dy_TN w_NK.
void fp8_linear_backward_input(Stream& s, Tensor dx, const Tensor& dy, const Matrix& w, Out out);
/// dw_NK (f32) += dy_TN' x_TK.
void fp8_linear_backward_weight(Stream& s, const Matrix& dw, const Tensor& dy, const Tensor& x);

}  // namespace sluice::cpu
