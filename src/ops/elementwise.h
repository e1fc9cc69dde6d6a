// Copies, conversions and sums. Tensors of equal rows and columns, f32|bf16 in any mix, rows may be strided.
#pragma once
#include "base/stream.h"
#include "base/tensor.h"

namespace sluice {

/// y = x, rounded to y's dtype; or i32 to i32.
void copy(Stream& s, Tensor y, const Tensor& x);
/// y = a + b (in float32, one rounding). y may be a or b.
void add(Stream& s, Tensor y, const Tensor& a, const Tensor& b);
/// x = 0.
void zero(Stream& s, Tensor x);

namespace cpu {
decltype(sluice::copy) copy;
decltype(sluice::add) add;
decltype(sluice::zero) zero;
}  // namespace cpu
namespace cuda {
decltype(sluice::copy) copy;
decltype(sluice::add) add;
decltype(sluice::zero) zero;
}  // namespace cuda

}  // namespace sluice
