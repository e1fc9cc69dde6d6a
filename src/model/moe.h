// Mixture-of-experts layer (specification 3):  y = Shared(x) + sum over chosen experts of w_i Expert_i(x).
// T tokens, D model, F expert width, E experts, K experts per token, R = T K rows sorted by expert, L rows of the
// experts that are here: the same R rows, unless experts lie on several ranks (parallel/expert_exchange.h).
//
// Forward and backward are lists of phases. Where experts lie on several ranks, a phase begins an exchange of rows that
// a later one ends, so that another micro-batch may compute meanwhile. Of rows that come in several rounds nothing
// is kept: they travel and are computed again, round by round, in the backward pass, and every round is over before the
// next begins.
#pragma once
#include "model/experts.h"
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
  ExchangePlan plan;                        // with experts on several ranks
  ExpertsSaved experts;                     // x and h only without recomputation
  Tensor y_RD;
  FfnSaved shared;
  Tensor dy_TD, dweight_TK, dlogits_TE;

  // Until rows are back.
  ExchangeRows rows, rows_again;  // the latter of x once more, for the gradients of weights
  Tensor x_RD, dy_RD, dx_RD;
  size_t mark = 0;  // what the arena has allocated since is needed only so long

  /// Returns when what was begun has arrived.
  void wait() const {
    plan.arriving.wait();
    rows.wait();
    rows_again.wait();
  }
};

/// Chooses experts and begins to tell their ranks how many rows will come; the first half of the shared expert.
/// counts_E (i64) += tokens per expert, unless empty.
void moe_route(Stream& s, Arena& a, const Tensor& x_TD, const MoeWeights& w, MoeSaved& k, const PassContext& ctx,
               const Tensor& counts_E);
/// Sends rows to their experts.
void moe_dispatch(Stream& s, Arena& a, const MoeWeights& w, MoeSaved& k, const PassContext& ctx);
/// The experts; sends the rows back.
void moe_experts(Stream& s, Arena& a, const MoeWeights& w, MoeSaved& k, const PassContext& ctx);
/// y += moe(x).
void moe_combine(Stream& s, Arena& a, Tensor y_TD, const MoeWeights& w, MoeSaved& k, const PassContext& ctx);

/// From dy, which stays as it is until the last phase: sends gradients to the experts.
void moe_backward_combine(Stream& s, Arena& a, const Tensor& dy_TD, MoeSaved& k, const PassContext& ctx);
/// The experts' input gradients; sends them back. Of rows that come in rounds also grad (=|+=, ctx.gradients)
/// those of the experts' weights.
void moe_backward_experts(Stream& s, Arena& a, const MoeWeights& w, const MoeWeights& grad, MoeSaved& k,
                          const PassContext& ctx);
/// dx = gradient of x, the balance loss included.
void moe_backward_dispatch(Stream& s, Arena& a, Tensor dx_TD, const MoeWeights& w, MoeSaved& k, const PassContext& ctx);
/// grad (=|+=, ctx.gradients or out) gradients of the weights: of experts and router at any time after
/// moe_backward_experts, of the shared expert after moe_backward_dispatch.
void moe_backward_weight_experts(Stream& s, const MoeWeights& grad, const MoeWeights& w, const MoeSaved& k,
                                 const PassContext& ctx);
void moe_backward_weight_shared(Stream& s, const MoeWeights& grad, const MoeWeights& w, const MoeSaved& k, Out out);

}  // namespace sluice
