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
  if (ctx.exchange) k.exchange = ctx.exchange->plan(s, a, k.offsets_E1, T * K);
  k.offsets = ctx.exchange ? k.exchange.offsets : k.offsets_E1;
}

/// Those of `bank` that are here.
ExpertBank here(const std::vector<Matrix>& bank, const PassContext& ctx) {
  if (!ctx.exchange) return bank;
  return ExpertBank(bank).subspan(static_cast<size_t>(ctx.exchange->first_expert()),
                                  static_cast<size_t>(ctx.exchange->num_experts()));
}

/// Rows of tokens in the order of experts to where the experts are, and back: y_RD from the memory of y_LD.
Tensor to_experts(Stream& s, Arena& a, const MoeSaved& k, const PassContext& ctx, const Tensor& x_RD) {
  return ctx.exchange ? ctx.exchange->dispatch(s, a, k.exchange, x_RD) : x_RD;
}
Tensor from_experts(Stream& s, Arena& a, const MoeSaved& k, const PassContext& ctx, const Tensor& y_LD) {
  if (!ctx.exchange) return y_LD;
  const Tensor y_RD = a.alloc(y_LD.dtype, {k.slot_of_R.size(), y_LD.cols()});
  ctx.exchange->combine(s, a, k.exchange, y_RD, y_LD);
  return y_RD;
}

void gather(Stream& s, Arena& a, MoeSaved& k, const PassContext& ctx) {
  const Tensor x_RD = a.alloc(k.x_TD.dtype, {k.slot_of_R.size(), k.x_TD.cols()});
  moe_gather_forward(s, x_RD, k.x_TD, k.slot_of_R, k.choice_TK.cols());
  k.x_LD = to_experts(s, a, k, ctx, x_RD);
}

void experts(Stream& s, Arena& a, const MoeWeights& w, MoeSaved& k, const PassContext& ctx) {
  const int64_t R = k.slot_of_R.size(), L = ctx.exchange ? k.exchange.rows() : R;
  const int64_t D = k.x_TD.cols(), F = w.gate[0].rows;
  const DType dtype = k.x_TD.dtype;
  k.g_LF = a.alloc(dtype, {L, F});
  k.u_LF = a.alloc(dtype, {L, F});
  k.y_RD = a.alloc(dtype, {R, D});
  const size_t mark = a.mark();
  gather(s, a, k, ctx);
  k.h_LF = a.alloc(dtype, {L, F});
  grouped_linear_forward(s, k.g_LF, k.x_LD, k.offsets, here(w.gate, ctx));
  grouped_linear_forward(s, k.u_LF, k.x_LD, k.offsets, here(w.up, ctx));
  swiglu_forward(s, k.h_LF, k.g_LF, k.u_LF);
  const size_t kept = a.mark();
  const Tensor y_LD = ctx.exchange ? a.alloc(dtype, {L, D}) : k.y_RD;
  grouped_linear_forward(s, y_LD, k.h_LF, k.offsets, here(w.down, ctx));
  if (ctx.exchange) ctx.exchange->combine(s, a, k.exchange, k.y_RD, y_LD);
  a.release(ctx.recompute ? mark : kept);
  if (ctx.recompute) k.x_LD = k.h_LF = Tensor();
}

/// dx = (from the experts) + (from the router) given dy.
void experts_backward(Stream& s, Arena& a, Tensor dx_TD, const MoeWeights& w, MoeSaved& k, const PassContext& ctx) {
  const size_t mark = a.mark();
  const Tensor dh_LF = a.alloc(dx_TD.dtype, {k.g_LF.rows(), k.g_LF.cols()});
  grouped_linear_backward_input(s, dh_LF, k.dy_LD, k.offsets, here(w.down, ctx));  // forward: y = h Wd'
  swiglu_backward(s, k.dg_LF, k.du_LF, dh_LF, k.g_LF, k.u_LF);                     // forward: h = silu(g) u
  const Tensor dx_LD = a.alloc(dx_TD.dtype, {k.dy_LD.rows(), dx_TD.cols()});
  grouped_linear_backward_input(s, dx_LD, k.dg_LF, k.offsets, here(w.gate, ctx));          // forward: g = x Wg'
  grouped_linear_backward_input(s, dx_LD, k.du_LF, k.offsets, here(w.up, ctx), Out::add);  // forward: u = x Wu'
  moe_gather_backward(s, dx_TD, from_experts(s, a, k, ctx, dx_LD), k.row_of_TK, Out::set);
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
  experts(s, a, w, k, ctx);
  moe_combine_forward(s, y_TD, k.y_RD, k.weight_TK, k.row_of_TK, Out::add);
  if (w.shared.gate) ffn_forward(s, a, y_TD, x_TD, w.shared, k.shared, ctx.recompute);
}

void moe_backward_input(Stream& s, Arena& a, Tensor dx_TD, const Tensor& dy_TD, const MoeWeights& w, MoeSaved& k,
                        const PassContext& ctx) {
  const int64_t T = dy_TD.rows(), L = k.g_LF.rows(), F = k.g_LF.cols();
  const DType dtype = dy_TD.dtype;
  k.dlogits_TE = a.f32(T, k.score_TE.cols());
  k.dg_LF = a.alloc(dtype, {L, F});
  k.du_LF = a.alloc(dtype, {L, F});
  if (!k.x_LD) gather(s, a, k, ctx);
  if (!k.h_LF) {
    k.h_LF = a.alloc(dtype, {L, F});
    swiglu_forward(s, k.h_LF, k.g_LF, k.u_LF);
  }
  const Tensor dweight_TK = a.f32(T, k.weight_TK.cols()), dy_RD = a.alloc(dtype, {k.y_RD.rows(), dy_TD.cols()});
  moe_combine_backward(s, dy_RD, dweight_TK, dy_TD, k.y_RD, k.weight_TK, k.slot_of_R);
  k.dy_LD = to_experts(s, a, k, ctx, dy_RD);
  experts_backward(s, a, dx_TD, w, k, ctx);
  route_backward_phase(s, a, dx_TD, dweight_TK, w, k, ctx);
  if (!w.shared.gate) return;
  const Tensor dshared_TD = a.alloc(dtype, {T, dx_TD.cols()});
  ffn_backward_input(s, a, dshared_TD, dy_TD, w.shared, k.shared);
  add(s, dx_TD, dx_TD, dshared_TD);
}

void moe_backward_weight(Stream& s, const MoeWeights& grad, const MoeWeights& w, const MoeSaved& k,
                         const PassContext& ctx) {
  grouped_linear_backward_weight(s, here(grad.down, ctx), k.dy_LD, k.h_LF, k.offsets, w.down[0].format);
  grouped_linear_backward_weight(s, here(grad.gate, ctx), k.dg_LF, k.x_LD, k.offsets, w.gate[0].format);
  grouped_linear_backward_weight(s, here(grad.up, ctx), k.du_LF, k.x_LD, k.offsets, w.up[0].format);
  linear_backward_weight(s, grad.router, k.dlogits_TE, k.x_TD, w.router.format);
  if (w.shared.gate) ffn_backward_weight(s, grad.shared, w.shared, k.shared);
}

}  // namespace sluice
