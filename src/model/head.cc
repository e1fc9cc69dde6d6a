#include "model/head.h"

#include "ops/linear.h"
#include "ops/loss.h"

namespace sluice {
namespace {

constexpr int64_t kChunk = 512;

/// Element range [begin, begin + n) of a vector.
Tensor range(const Tensor& t, int64_t begin, int64_t n) {
  return Tensor(t.reshape({t.size(), 1}).at(begin), t.dtype, {n});
}

}  // namespace

void head_loss_backward(Stream& s, Arena& a, Tensor dh_TD, const HeadRows& rows, const Matrix& head, const Matrix& grad,
                        float scale) {
  const size_t mark = a.mark();
  const int64_t T = rows.h_TD.rows();
  const Tensor buffer = a.f32(std::min(kChunk, T), head.rows);
  for (int64_t t = 0; t < T; t += kChunk) {
    const int64_t n = std::min(kChunk, T - t);
    const Tensor logits = buffer.slice_rows(0, n), h = rows.h_TD.slice_rows(t, n);
    linear_forward(s, logits, h, head);
    cross_entropy_backward(s, range(rows.loss_T, t, n), logits, range(rows.target_T, t, n), scale);
    linear_backward_input(s, dh_TD.slice_rows(t, n), logits, head);
    linear_backward_weight(s, grad, logits, h, head.format);
  }
  a.release(mark);
}

void head_loss_forward(Stream& s, Arena& a, Tensor argmax_T, const HeadRows& rows, const Matrix& head) {
  const size_t mark = a.mark();
  const int64_t T = rows.h_TD.rows();
  const Tensor buffer = a.f32(std::min(kChunk, T), head.rows);
  for (int64_t t = 0; t < T; t += kChunk) {
    const int64_t n = std::min(kChunk, T - t);
    const Tensor logits = buffer.slice_rows(0, n);
    linear_forward(s, logits, rows.h_TD.slice_rows(t, n), head);
    cross_entropy_forward(s, range(rows.loss_T, t, n), range(argmax_T, t, n), logits, range(rows.target_T, t, n));
  }
  a.release(mark);
}

}  // namespace sluice
