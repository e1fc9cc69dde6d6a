// Mixture-of-experts layer (specification 3):  y = Shared(x) + sum over chosen experts of w_i Expert_i(x).
// T tokens, D model, F expert width, E experts, K experts per token, R = T K rows sorted by expert, L rows of the
// experts that are here: the same R rows, unless experts lie on several ranks (parallel/expert_exchange.h). The layer
// is a list of phases (route, dispatch, experts, combine), so that two micro-batches can be interleaved.
#pragma once
#include "model/ffn.h"
#include "model/mla.h"
#include "ops/moe.h"
#include "parallel/expert_exchange.h"

namespace sluice {

struct MoeSaved {
  Tensor x_TD;
  Tensor score_TE, choice_TK, weight_TK;  // route
  Tensor balance_loss_B, balance_f_BE;
  Tensor offsets_E1, row_of_TK, slot_of_R;  // dispatch
  ExchangePlan exchange;                    // with experts on several ranks
  Tensor offsets;                           // where the rows of each expert here begin
  Tensor x_LD, g_LF, u_LF, h_LF, y_RD;      // experts; x and h only without recomputation
  FfnSaved shared;
  Tensor dy_LD, dg_LF, du_LF, dlogits_TE;  // for backward_weight
};

/// y += moe(x). counts_E (i64) += tokens per expert, unless empty.
void moe_forward(Stream& s, Arena& a, Tensor y_TD, const Tensor& x_TD, const MoeWeights& w, MoeSaved& k,
                 const PassContext& ctx, const Tensor& counts_E);
/// dx = gradient of x from dy, the balance loss included.
void moe_backward_input(Stream& s, Arena& a, Tensor dx_TD, const Tensor& dy_TD, const MoeWeights& w, MoeSaved& k,
                        const PassContext& ctx);
/// grad += gradients of the weights.
void moe_backward_weight(Stream& s, const MoeWeights& grad, const MoeWeights& w, const MoeSaved& k,
                         const PassContext& ctx);

}  // namespace sluice
