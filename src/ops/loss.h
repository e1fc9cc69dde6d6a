// Cross-entropy over rows of logits.  logits (T, V) f32, packed; target_T i32 in [0, V) or -1 (no target);
// loss_T f32: -log p[target], 0 where there is no target.
#pragma once
#include "base/stream.h"
#include "base/tensor.h"

namespace sluice {

/// Writes loss_T and argmax_T (i32, lowest index on ties; may be empty).
void cross_entropy_forward(Stream& s, Tensor loss_T, Tensor argmax_T, const Tensor& logits, const Tensor& target_T);
/// Writes loss_T and the gradient of the logits, scale * (softmax - onehot); 0 in rows without target. dlogits: bf16,
/// or f32 and then also the logits themselves; the logits are lost. Forward and backward in one pass, because the
/// logits of a chunk of rows live only this long.
void cross_entropy_backward(Stream& s, Tensor loss_T, Tensor dlogits, const Tensor& logits, const Tensor& target_T,
                            float scale);

namespace cpu {
decltype(sluice::cross_entropy_forward) cross_entropy_forward;
decltype(sluice::cross_entropy_backward) cross_entropy_backward;
}  // namespace cpu
namespace cuda {
decltype(sluice::cross_entropy_forward) cross_entropy_forward;
decltype(sluice::cross_entropy_backward) cross_entropy_backward;
}  // namespace cuda

}  // namespace sluice
