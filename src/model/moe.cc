#include "model/moe.h"

#include "ops/elementwise.h"
#include "ops/swiglu.h"

namespace sluice {
namespace {

void route(Stream& s, Arena& a, const MoeWeights& w, MoeSaved& k, const PassContext& ctx) {
  const HfConfig& c = *ctx.config;
  const int64_t T = k.x_TD.rows(), E = c.n_routed_experts, K = c.num_experts_per_tok;
  k.score_TE = a.f32(T, E);
  k.choice_TK = a.alloc(DType::i32, {T, K});
  k.weight_TK = a.f32(T, K);
  k.balance_loss_B = a.alloc(DType::f32, {ctx.batch});
  k.balance_f_BE = a.f32(ctx.batch, E);
  const size_t mark = a.mark();
  const Tensor logits_TE = a.f32(T, E);
  linear_forward(s, logits_TE, k.x_TD, w.router);
  route_forward(s, k.choice_TK, k.weight_TK, k.score_TE, logits_TE, w.bias ? w.bias.tensor() : Tensor(),
                router_config(c));
  balance_forward(s, k.balance_loss_B, k.balance_f_BE, k.score_TE, ctx.balance.routed_counts ? k.choice_TK : Tensor(),
                  K);
  a.release(mark);
}

void dispatch(Stream& s, Arena& a, MoeSaved& k, const PassContext& ctx, const Tensor& counts_E) {
  const int64_t T = k.x_TD.rows(), K = ctx.config->num_experts_per_tok;
  k.offsets_E1 = a.alloc(DType::i32, {ctx.config->n_routed_experts + 1});
  k.row_of_TK = a.alloc(DType::i32, {T, K});
  k.slot_of_R = a.alloc(DType::i32, {T * K});
  moe_permute(s, k.offsets_E1, k.row_of_TK, k.slot_of_R, k.choice_TK);
  if (counts_E) moe_count(s, counts_E, k.offsets_E1);
}

void gather(Stream& s, Arena& a, MoeSaved& k) {
  k.x_RD = a.alloc(k.x_TD.dtype, {k.slot_of_R.size(), k.x_TD.cols()});
  moe_gather_forward(s, k.x_RD, k.x_TD, k.slot_of_R, k.choice_TK.cols());
}

void experts(Stream& s, Arena& a, const MoeWeights& w, MoeSaved& k, bool recompute) {
  const int64_t R = k.slot_of_R.size(), D = k.x_TD.cols(), F = w.gate[0].rows;
  const DType dtype = k.x_TD.dtype;
  k.g_RF = a.alloc(dtype, {R, F});
  k.u_RF = a.alloc(dtype, {R, F});
  k.y_RD = a.alloc(dtype, {R, D});
  const size_t mark = a.mark();
  gather(s, a, k);
  k.h_RF = a.alloc(dtype, {R, F});
  grouped_linear_forward(s, k.g_RF, k.x_RD, k.offsets_E1, w.gate);
  grouped_linear_forward(s, k.u_RF, k.x_RD, k.offsets_E1, w.up);
  swiglu_forward(s, k.h_RF, k.g_RF, k.u_RF);
  grouped_linear_forward(s, k.y_RD, k.h_RF, k.offsets_E1, w.down);
  if (!recompute) return;
  a.release(mark);
  k.x_RD = k.h_RF = Tensor();
}

/// dx = (from the experts) + (from the router) given dy.
void experts_backward(Stream& s, Arena& a, Tensor dx_TD, const MoeWeights& w, MoeSaved& k) {
  const size_t mark = a.mark();
  const Tensor dh_RF = a.alloc(dx_TD.dtype, {k.g_RF.rows(), k.g_RF.cols()});
  grouped_linear_backward_input(s, dh_RF, k.dy_RD, k.offsets_E1, w.down);  // forward: y = h Wd'
  swiglu_backward(s, k.dg_RF, k.du_RF, dh_RF, k.g_RF, k.u_RF);             // forward: h = silu(g) u
  const Tensor dx_RD = a.alloc(dx_TD.dtype, {k.dy_RD.rows(), dx_TD.cols()});
  grouped_linear_backward_input(s, dx_RD, k.dg_RF, k.offsets_E1, w.gate);          // forward: g = x Wg'
  grouped_linear_backward_input(s, dx_RD, k.du_RF, k.offsets_E1, w.up, Out::add);  // forward: u = x Wu'
  moe_gather_backward(s, dx_TD, dx_RD, k.row_of_TK, Out::set);
  a.release(mark);
}

void route_backward_phase(Stream& s, Arena& a, Tensor dx_TD, const Tensor& dweight_TK, const MoeWeights& w, MoeSaved& k,
                          const PassContext& ctx) {
  const size_t mark = a.mark();
  Tensor dscore_TE;
  if (ctx.balance.coefficient != 0) {
    dscore_TE = a.f32(k.score_TE.rows(), k.score_TE.cols());
    balance_backward(s, dscore_TE, k.balance_f_BE, k.score_TE, ctx.balance.coefficient);
  }
  route_backward(s, k.dlogits_TE, dweight_TK, dscore_TE, k.choice_TK, k.score_TE, router_config(*ctx.config));
  linear_backward_input(s, dx_TD, k.dlogits_TE, w.router, Out::add);  // forward: logits = x Wr'
  a.release(mark);
}

}  // namespace

void moe_forward(Stream& s, Arena& a, Tensor y_TD, const Tensor& x_TD, const MoeWeights& w, MoeSaved& k,
                 const PassContext& ctx, const Tensor& counts_E) {
  k.x_TD = x_TD;
  route(s, a, w, k, ctx);
  dispatch(s, a, k, ctx, counts_E);
  experts(s, a, w, k, ctx.recompute);
  moe_combine_forward(s, y_TD, k.y_RD, k.weight_TK, k.row_of_TK, Out::add);
  if (w.shared.gate) ffn_forward(s, a, y_TD, x_TD, w.shared, k.shared, ctx.recompute);
}

void moe_backward_input(Stream& s, Arena& a, Tensor dx_TD, const Tensor& dy_TD, const MoeWeights& w, MoeSaved& k,
                        const PassContext& ctx) {
  const int64_t T = dy_TD.rows(), R = k.y_RD.rows(), F = k.g_RF.cols();
  const DType dtype = dy_TD.dtype;
  k.dlogits_TE = a.f32(T, k.score_TE.cols());
  k.dy_RD = a.alloc(dtype, {R, dy_TD.cols()});
  k.dg_RF = a.alloc(dtype, {R, F});
  k.du_RF = a.alloc(dtype, {R, F});
  if (!k.x_RD) gather(s, a, k);
  if (!k.h_RF) {
    k.h_RF = a.alloc(dtype, {R, F});
    swiglu_forward(s, k.h_RF, k.g_RF, k.u_RF);
  }
  const Tensor dweight_TK = a.f32(T, k.weight_TK.cols());
  moe_combine_backward(s, k.dy_RD, dweight_TK, dy_TD, k.y_RD, k.weight_TK, k.slot_of_R);
  experts_backward(s, a, dx_TD, w, k);
  route_backward_phase(s, a, dx_TD, dweight_TK, w, k, ctx);
  if (!w.shared.gate) return;
  const Tensor dshared_TD = a.alloc(dtype, {T, dx_TD.cols()});
  ffn_backward_input(s, a, dshared_TD, dy_TD, w.shared, k.shared);
  add(s, dx_TD, dx_TD, dshared_TD);
}

void moe_backward_weight(Stream& s, const MoeWeights& grad, const MoeWeights& w, const MoeSaved& k) {
  grouped_linear_backward_weight(s, grad.down, k.dy_RD, k.h_RF, k.offsets_E1, w.down[0].format);
  grouped_linear_backward_weight(s, grad.gate, k.dg_RF, k.x_RD, k.offsets_E1, w.gate[0].format);
  grouped_linear_backward_weight(s, grad.up, k.du_RF, k.x_RD, k.offsets_E1, w.up[0].format);
  linear_backward_weight(s, grad.router, k.dlogits_TE, k.x_TD, w.router.format);
  if (w.shared.gate) ffn_backward_weight(s, grad.shared, w.shared, k.shared);
}

}  // namespace sluice
