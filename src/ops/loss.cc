#include "ops/loss.h"

#include "ops/dispatch.h"

namespace sluice {
namespace {

void check_rows(const Tensor& loss_T, const Tensor& logits, const Tensor& target_T) {
  check(logits.dtype == DType::f32 && logits.packed(), "cross_entropy: expected packed f32 logits");
  check(loss_T.dtype == DType::f32 && loss_T.size() == logits.rows() && target_T.dtype == DType::i32 &&
            target_T.size() == logits.rows(),
        "cross_entropy: expected loss (T) f32 and target (T) i32");
}

}  // namespace

void cross_entropy_forward(Stream& s, Tensor loss_T, Tensor argmax_T, const Tensor& logits, const Tensor& target_T) {
  check_rows(loss_T, logits, target_T);
  check(!argmax_T || (argmax_T.dtype == DType::i32 && argmax_T.size() == logits.rows()),
        "cross_entropy: argmax (T) i32");
  dispatch<cpu::cross_entropy_forward, cuda::cross_entropy_forward>(s, loss_T, argmax_T, logits, target_T);
}

void cross_entropy_backward(Stream& s, Tensor loss_T, Tensor dlogits, const Tensor& logits, const Tensor& target_T,
                            float scale) {
  check_rows(loss_T, logits, target_T);
  check(dlogits.rows() == logits.rows() && dlogits.cols() == logits.cols() && dlogits.packed() &&
            (dlogits.dtype == DType::f32 || dlogits.dtype == DType::bf16),
        "cross_entropy_backward: expected packed f32|bf16 gradients as the logits");
  dispatch<cpu::cross_entropy_backward, cuda::cross_entropy_backward>(s, loss_T, dlogits, logits, target_T, scale);
}

}  // namespace sluice
