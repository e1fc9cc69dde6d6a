// Causal attention of MLA in its MHA form (specification 2.2, 2.8, 2.9), the form for training and prefill.
// B sequences of S tokens each, T = B S rows, H heads. Per head: key = [k_nope | k_rope], k_rope shared by all heads.
//   score_tj = scale (q_nope_t . k_nope_j + q_rope_t . k_rope_j)   for first_t <= j <= t within the sequence
//   p = softmax_j(score),  o_t = sum_j p_j v_j,  lse_t = log sum_j exp(score_tj)
// q (T, H (nope+rope)), kv (T, H (nope+value)): per head [k_nope | v]; k_rope (T, rope) may be strided; o (T, H value);
// all f32|bf16 of one dtype; softmax and sums in float32. lse (T, H) f32. The score matrix is never stored whole.
#pragma once
#include "base/stream.h"
#include "base/tensor.h"

namespace sluice {

struct AttentionShape {
  int64_t batch, tokens, heads, nope, rope, value;
  float scale;
};

/// `first_T` (i32, index within the sequence of the first token that t may see) is empty where t sees all before it.
struct AttentionInputs {
  Tensor q, kv, k_rope, first_T;
};

void attention_forward(Stream& s, Tensor o, Tensor lse, const AttentionInputs& in, const AttentionShape& shape);
/// Writes grad.q, grad.kv, grad.k_rope (summed over heads); recomputes p from lse.
void attention_backward_input(Stream& s, const AttentionInputs& grad, const Tensor& d_o, const AttentionInputs& in,
                              const Tensor& o, const Tensor& lse, const AttentionShape& shape);

namespace cpu {
decltype(sluice::attention_forward) attention_forward;
decltype(sluice::attention_backward_input) attention_backward_input;
}  // namespace cpu
namespace cuda {
decltype(sluice::attention_forward) attention_forward;
decltype(sluice::attention_backward_input) attention_backward_input;
}  // namespace cuda

}  // namespace sluice
