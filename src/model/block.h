// One Transformer block (specification 1.3):  h1 = h0 + MLA(norm(h0)),  h2 = h1 + FFN(norm(h1)).
//
// Both ways are lists of phases: forward attention, dispatch, experts, combine; backward combine, experts (input, then
// weight gradients), attention (likewise). Between them another micro-batch may compute while rows of this one travel
// to experts on other ranks (model/moe.h). Of a dense block "experts" is the whole FFN, and nothing travels.
#pragma once
#include "model/moe.h"

namespace sluice {

struct BlockSaved {
  Tensor h0_TD, r0_T, x0_TD;  // input of the block; norm factor; normed input
  Tensor h1_TD, r1_T, x1_TD;  // between attention and FFN
  Tensor h2_TD;               // output
  MlaSaved mla;
  FfnSaved dense;
  MoeSaved moe;
  Tensor dx0_TD, dx1_TD;  // gradients of the normed inputs, for backward_weight
  Tensor dh2_TD;
};

/// h2 = block(h0), in this order. counts_E (i64) += tokens per expert of this layer, unless empty.
void block_forward_attention(Stream& s, Arena& a, Tensor h2_TD, const Tensor& h0_TD, const BlockWeights& w,
                             BlockSaved& k, const PassContext& ctx, const Tensor& counts_E);
void block_forward_dispatch(Stream& s, Arena& a, const BlockWeights& w, BlockSaved& k, const PassContext& ctx);
void block_forward_experts(Stream& s, Arena& a, const BlockWeights& w, BlockSaved& k, const PassContext& ctx);
void block_forward_combine(Stream& s, Arena& a, const BlockWeights& w, BlockSaved& k, const PassContext& ctx);

/// dh0 = gradient of h0 from dh2, in this order. dh0 must not be dh2. What gradients of weights need stays in `a`.
void block_backward_combine(Stream& s, Arena& a, const Tensor& dh2_TD, const BlockWeights& w, BlockSaved& k,
                            const PassContext& ctx);
/// Of rows that come in rounds also grad += those of the experts' weights.
void block_backward_experts(Stream& s, Arena& a, const BlockWeights& w, const BlockWeights& grad, BlockSaved& k,
                            const PassContext& ctx);
void block_backward_attention(Stream& s, Arena& a, Tensor dh0_TD, const BlockWeights& w, BlockSaved& k,
                              const PassContext& ctx);
/// grad += gradients of the weights, at any time after the input gradients of the same name.
void block_backward_weight_experts(Stream& s, const BlockWeights& w, const BlockWeights& grad, const BlockSaved& k,
                                   const PassContext& ctx);
void block_backward_weight_attention(Stream& s, const BlockWeights& w, const BlockWeights& grad, const BlockSaved& k,
                                     Out out);

}  // namespace sluice
