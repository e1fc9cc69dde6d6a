// The output head and its losses, in chunks of rows: the logits of all tokens never exist at once.
// T rows, D model, V vocabulary.
#pragma once
#include "base/arena.h"
#include "base/stream.h"
#include "model/weights.h"
#include "ops/linear.h"

namespace sluice {

/// Rows that the head turns into losses: normed hidden states, targets (i32, -1: none) and where the loss goes (f32).
struct HeadRows {
  Tensor h_TD, target_T, loss_T;
};

/// Of T rows, those whose logits exist at the same time. On a GPU more: each chunk adds to all of the head's gradient.
int64_t logit_rows(const Device& device, int64_t T);

/// loss_T = -log p[target] per row (0 without a target); dh_TD = scale * gradient of their sum; grad (=|+=) scale *
/// the gradient of the head. Forward and backward are one pass because they share the logits of a chunk.
void head_loss_backward(Stream& s, Arena& a, Tensor dh_TD, const HeadRows& rows, const Matrix& head, const Matrix& grad,
                        float scale, Out out);

/// loss_T, and the argmax of every row (i32).
void head_loss_forward(Stream& s, Arena& a, Tensor argmax_T, const HeadRows& rows, const Matrix& head);

}  // namespace sluice
