// SwiGLU feed-forward layer (arXiv:2002.05202):  y = (silu(x Wg') * (x Wu')) Wd'.   T tokens, D model, F hidden.
#pragma once
#include "base/arena.h"
#include "model/weights.h"
#include "ops/linear.h"

namespace sluice {

struct FfnSaved {
  Tensor x_TD, gu_T2F, h_TF;  // written by forward, gu as in model/gate_up.h; h only without recomputation
  Tensor dy_TD, dgu_T2F;      // written by backward_input for backward_weight
};

/// y += ffn(x) in two halves, between which y may be written. `recompute`: h is computed again in the backward pass
/// instead of kept.
void ffn_forward_up(Stream& s, Arena& a, const Tensor& x_TD, const FfnWeights& w, FfnSaved& k);
void ffn_forward_down(Stream& s, Arena& a, Tensor y_TD, const FfnWeights& w, FfnSaved& k, bool recompute);
/// dx = gradient of x from dy.
void ffn_backward_input(Stream& s, Arena& a, Tensor dx_TD, const Tensor& dy_TD, const FfnWeights& w, FfnSaved& k);
/// grad (=|+=) gradients of the weights.
void ffn_backward_weight(Stream& s, const FfnWeights& grad, const FfnWeights& w, const FfnSaved& k, Out out);

}  // namespace sluice
