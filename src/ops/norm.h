// RMSNorm over rows (arXiv:1910.07467; specification 1.4):  y = xhat w,  xhat = x r,  r = 1 / sqrt(mean(x^2) + eps)
// T rows, D columns.  x, y, dx, dy (T, D), rows may be strided, and w (D): f32|bf16, one dtype;  r (T), dw (D) f32.
// Statistics and all arithmetic in float32, one rounding at the end. Outputs alias no input.
#pragma once
#include "base/stream.h"
#include "base/tensor.h"

namespace sluice {

/// y = x r w; r is written for the backward pass.
void rmsnorm_forward(Stream& s, Tensor y, Tensor r, const Tensor& x, const Tensor& w, float eps);
/// dx = r (g - x r^2 mean(g x)) with g = dy w.
void rmsnorm_backward_input(Stream& s, Tensor dx, const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& r);
/// dw += sum over rows of dy x r.
void rmsnorm_backward_weight(Stream& s, Tensor dw, const Tensor& dy, const Tensor& x, const Tensor& r);

namespace cpu {
decltype(sluice::rmsnorm_forward) rmsnorm_forward;
decltype(sluice::rmsnorm_backward_input) rmsnorm_backward_input;
decltype(sluice::rmsnorm_backward_weight) rmsnorm_backward_weight;
}  // namespace cpu
namespace cuda {
decltype(sluice::rmsnorm_forward) rmsnorm_forward;
decltype(sluice::rmsnorm_backward_input) rmsnorm_backward_input;
decltype(sluice::rmsnorm_backward_weight) rmsnorm_backward_weight;
}  // namespace cuda

}  // namespace sluice
