// SwiGLU (arXiv:2002.05202; specification 1.5):  h = silu(g) u,  silu(z) = z sigmoid(z).
// g, u, h and their gradients (T, F) f32|bf16, one dtype; rows may be strided.
#pragma once
#include "base/stream.h"
#include "base/tensor.h"

namespace sluice {

void swiglu_forward(Stream& s, Tensor h, const Tensor& g, const Tensor& u);
/// dg = dh u sigma(g) (1 + g (1 - sigma(g))),  du = dh silu(g). dg may be g's memory and du may be u's.
void swiglu_backward(Stream& s, Tensor dg, Tensor du, const Tensor& dh, const Tensor& g, const Tensor& u);

namespace cpu {
decltype(sluice::swiglu_forward) swiglu_forward;
decltype(sluice::swiglu_backward) swiglu_backward;
}  // namespace cpu
namespace cuda {
decltype(sluice::swiglu_forward) swiglu_forward;
decltype(sluice::swiglu_backward) swiglu_backward;
}  // namespace cuda

}  // namespace sluice
