// One Transformer block (specification 1.3):  h1 = h0 + MLA(norm(h0)),  h2 = h1 + FFN(norm(h1)).
#pragma once
#include "model/moe.h"

namespace sluice {

struct BlockSaved {
  Tensor h0_TD, r0_T, x0_TD;  // input of the block; norm factor; normed input (empty when recomputed)
  Tensor h1_TD, r1_T, x1_TD;  // between attention and FFN
  MlaSaved mla;
  FfnSaved dense;
  MoeSaved moe;
  Tensor dx0_TD, dx1_TD;  // gradients of the normed inputs, for backward_weight
};

/// h2 = block(h0). counts_E (i64) += tokens per expert of this layer, unless empty.
void block_forward(Stream& s, Arena& a, Tensor h2_TD, const Tensor& h0_TD, const BlockWeights& w, BlockSaved& k,
                   const PassContext& ctx, const Tensor& counts_E);
/// dh0 = gradient of h0 from dh2. dh0 must not be dh2. What backward_weight needs stays in `a`.
void block_backward_input(Stream& s, Arena& a, Tensor dh0_TD, const Tensor& dh2_TD, const BlockWeights& w,
                          BlockSaved& k, const PassContext& ctx);
/// grad += gradients of the weights.
void block_backward_weight(Stream& s, const BlockWeights& w, const BlockWeights& grad, const BlockSaved& k,
                           const PassContext& ctx);
/// Both, which leaves nothing in `a`.
void block_backward(Stream& s, Arena& a, Tensor dh0_TD, const Tensor& dh2_TD, const BlockWeights& w,
                    const BlockWeights& grad, BlockSaved& k, const PassContext& ctx);

}  // namespace sluice
