// One multi-token-prediction module (specification 4).  B sequences of S positions: position i combines the hidden
// state of token i with the embedding of token i + 1.  T = B S rows, D model.
//   x_i = eh_proj [ enorm(Emb(t_{i+1})) ; hnorm(h_i) ],   y = block(x),   prediction = head(head_norm(y))
#pragma once
#include "model/block.h"

namespace sluice {

struct MtpSaved {
  Tensor h_TD, e_TD, eh_T2D, x_TD, y_TD, z_TD;
  Tensor h_r_T, e_r_T, z_r_T;
  BlockSaved block;
};

/// From h and the embeddings e of the next tokens: k.x_TD = input of the block, k.y_TD with memory for its output, the
/// hidden state for a following module.
void mtp_forward_begin(Stream& s, Arena& a, const Tensor& h_TD, const Tensor& e_TD, const MtpWeights& w, MtpSaved& k,
                       const PassContext& ctx);
/// After the block: k.z_TD = normed output for the head.
void mtp_forward_end(Stream& s, const MtpWeights& w, MtpSaved& k, const PassContext& ctx);

struct MtpGradients {
  Tensor dh_TD, de_TD;  // written
  Tensor dz_TD, dy_TD;  // given; dy (from a following module) may be empty
};

/// The gradient of the block's output from d.dz and d.dy, in memory of `a`; then, from that of its input, d.dh and
/// d.de. grad += gradients of the weights outside the block.
Tensor mtp_backward_begin(Stream& s, Arena& a, const MtpGradients& d, const MtpWeights& w, const MtpWeights& grad,
                          const MtpSaved& k);
void mtp_backward_end(Stream& s, Arena& a, const MtpGradients& d, const Tensor& dx_TD, const MtpWeights& w,
                      const MtpWeights& grad, const MtpSaved& k, Out gradients);

}  // namespace sluice
