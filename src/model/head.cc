#include "model/head.h"

#include "ops/linear.h"
#include "ops/loss.h"

namespace sluice {
namespace {

/// Element range [begin, begin + n) of a vector.
Tensor range(const Tensor& t, int64_t begin, int64_t n) {
  return Tensor(t.reshape({t.size(), 1}).at(begin), t.dtype, {n});
}

}  // namespace

int64_t logit_rows(const Device& device, int64_t T) { return std::min<int64_t>(T, device.is_cuda() ? 2048 : 512); }

void head_loss_backward(Stream& s, Arena& a, Tensor dh_TD, const HeadRows& rows, const Matrix& head, const Matrix& grad,
                        float scale, Out out) {
  const size_t mark = a.mark();
  const int64_t T = rows.h_TD.rows(), chunk = logit_rows(a.device(), T);
  const DType dtype = rows.h_TD.dtype;
  const Tensor buffer = a.f32(chunk, head.rows),
               gradient = dtype == DType::f32 ? buffer : a.alloc(dtype, {chunk, head.rows});
  for (int64_t t = 0; t < T; t += chunk) {
    const int64_t n = std::min(chunk, T - t);
    const Tensor logits = buffer.slice_rows(0, n), h = rows.h_TD.slice_rows(t, n);
    const Tensor dlogits = gradient.slice_rows(0, n);
    linear_forward(s, logits, h, head);
    cross_entropy_backward(s, range(rows.loss_T, t, n), dlogits, logits, range(rows.target_T, t, n), scale);
    linear_backward_input(s, dh_TD.slice_rows(t, n), dlogits, head);
    linear_backward_weight(s, grad, dlogits, h, head.format, t == 0 ? out : Out::add);
  }
  a.release(mark);
}

void head_loss_forward(Stream& s, Arena& a, Tensor argmax_T, const HeadRows& rows, const Matrix& head) {
  const size_t mark = a.mark();
  const int64_t T = rows.h_TD.rows(), chunk = logit_rows(a.device(), T);
  const Tensor buffer = a.f32(chunk, head.rows);
  for (int64_t t = 0; t < T; t += chunk) {
    const int64_t n = std::min(chunk, T - t);
    const Tensor logits = buffer.slice_rows(0, n);
    linear_forward(s, logits, rows.h_TD.slice_rows(t, n), head);
    cross_entropy_forward(s, range(rows.loss_T, t, n), range(argmax_T, t, n), logits, range(rows.target_T, t, n));
  }
  a.release(mark);
}

}  // namespace sluice
