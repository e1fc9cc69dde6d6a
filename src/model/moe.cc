#include "model/moe.h"

#include "model/gate_up.h"
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

/// Of the experts that are here.
ExpertBanks here(const MoeWeights& w, const PassContext& ctx) {
  if (!ctx.exchange) return {w.gate, w.up, w.down};
  const auto part = [&](const std::vector<Matrix>& bank) {
    return ExpertBank(bank).subspan(static_cast<size_t>(ctx.exchange->first_expert()),
                                    static_cast<size_t>(ctx.exchange->num_experts()));
  };
  return {part(w.gate), part(w.up), part(w.down)};
}

/// Of E experts every (E / held)th: where the rows of those begin that take the rows of their neighbours as well, and
/// where all end.
Tensor offsets_of_groups(Stream& s, Arena& a, const Tensor& offsets_E1, int64_t held) {
  const int64_t E = offsets_E1.size() - 1;
  const Tensor offsets = a.alloc(DType::i32, {held + 1});
  Tensor first = Tensor(offsets_E1.data, DType::i32, {held, 1});
  first.ld = E / held;
  copy(s, Tensor(offsets.data, DType::i32, {held, 1}), first);
  copy(s, Tensor(offsets.ptr<int32_t>() + held, DType::i32, {1}),
       Tensor(offsets_E1.ptr<int32_t>() + E, DType::i32, {1}));
  return offsets;
}

/// Rows of tokens, in the order of experts.
void gather(Stream& s, const MoeSaved& k, const Tensor& x_RD) {
  moe_gather_forward(s, x_RD, k.x_TD, k.slot_of_R, k.choice_TK.cols());
}

int64_t rows_here(const MoeSaved& k, const PassContext& ctx) {
  return ctx.exchange ? k.plan.rounds[0].rows() : k.slot_of_R.size();
}

Tensor like_rows_of(Arena& a, const MoeSaved& k, int64_t rows) { return a.alloc(k.x_TD.dtype, {rows, k.x_TD.cols()}); }

/// Rows of one round, as ExpertsSaved of their own.
class RoundRows {
 public:
  RoundRows(Stream& s, Arena& a, const MoeWeights& w, const PassContext& ctx, ExchangeRound& round, const MoeSaved& k)
      : s_(s), a_(a), exchange_(*ctx.exchange), round_(round), w_(here(w, ctx)) {
    exchange_.prepare(s, a, round);
    const int64_t L = round.rows(), F = w.gate[0].rows;
    experts_.offsets = round.offsets;
    experts_.x_LD = like_rows_of(a, k, L);
    experts_.gu_L2F = a.alloc(k.x_TD.dtype, {L, 2 * F});
    experts_.h_LF = a.alloc(k.x_TD.dtype, {L, F});
  }
  void forward(const Tensor& x_RD, const Tensor& y_RD) {
    arrive(experts_.x_LD, x_RD);
    const Tensor y_LD = like(experts_.x_LD);
    experts_forward(s_, y_LD, w_, experts_);
    leave(y_RD, y_LD);
  }
  void backward(const Tensor& x_RD, const Tensor& dy_RD, const Tensor& dx_RD, const ExpertBanks& grad, Out out) {
    experts_.dgu_L2F = like(experts_.gu_L2F);
    experts_.dy_LD = like(experts_.x_LD);
    arrive(experts_.x_LD, x_RD);
    arrive(experts_.dy_LD, dy_RD);
    const Tensor dx_LD = like(experts_.x_LD);
    experts_hidden(s_, w_, experts_);
    experts_backward_input(s_, a_, dx_LD, w_, experts_);
    experts_backward_weight(s_, grad, w_, experts_, out);
    leave(dx_RD, dx_LD);
  }

 private:
  Tensor like(const Tensor& t) { return a_.alloc(t.dtype, {t.rows(), t.cols()}); }
  void arrive(const Tensor& here_LD, const Tensor& rows_RD) {
    const size_t mark = a_.mark();
    exchange_.end_dispatch(s_, round_, exchange_.begin_dispatch(s_, a_, round_, rows_RD), here_LD);
    a_.release(mark);
  }
  void leave(const Tensor& rows_RD, const Tensor& here_LD) {
    exchange_.end_combine(s_, round_, exchange_.begin_combine(s_, a_, round_, rows_RD, here_LD), rows_RD);
  }

  Stream& s_;
  Arena& a_;
  ExpertExchange& exchange_;
  ExchangeRound& round_;
  ExpertBanks w_;
  ExpertsSaved experts_;
};

/// fn(rows of a round) for each, in memory that the next takes again.
template <class Fn>
void each_round(Stream& s, Arena& a, const MoeWeights& w, MoeSaved& k, const PassContext& ctx, Fn&& fn) {
  for (ExchangeRound& round : k.plan.rounds) {
    const size_t mark = a.mark();
    RoundRows rows(s, a, w, ctx, round, k);
    fn(rows);
    a.release(mark);
  }
}

void backward_route(Stream& s, Arena& a, MoeSaved& k, const PassContext& ctx) {
  const size_t mark = a.mark();
  Tensor dscore_TE;
  if (ctx.balance.coefficient != 0) {
    dscore_TE = a.f32(k.score_TE.rows(), k.score_TE.cols());
    balance_backward(s, dscore_TE, k.balance_f_BE, k.score_TE, ctx.balance.coefficient);
  }
  route_backward(s, k.dlogits_TE, k.dweight_TK, dscore_TE, k.choice_TK, k.score_TE, router_config(*ctx.config));
  a.release(mark);
}

/// Memory for the gradients of the experts' rows, and what recomputation left out.
void allocate_backward(Stream& s, Arena& a, MoeSaved& k, const PassContext& ctx) {
  ExpertsSaved& e = k.experts;
  const int64_t L = rows_here(k, ctx), F = e.gu_L2F.cols() / 2;
  e.dgu_L2F = a.alloc(k.x_TD.dtype, {L, 2 * F});
  e.dy_LD = like_rows_of(a, k, L);
  if (!ctx.recompute) return;
  e.x_LD = like_rows_of(a, k, L);
  e.h_LF = a.alloc(k.x_TD.dtype, {L, F});
  swiglu_forward(s, e.h_LF, gate_of(e.gu_L2F), up_of(e.gu_L2F));
}

}  // namespace

void moe_route(Stream& s, Arena& a, const Tensor& x_TD, const MoeWeights& w, MoeSaved& k, const PassContext& ctx,
               const Tensor& counts_E) {
  k.x_TD = x_TD;
  route(s, a, w, k, ctx);
  const int64_t T = x_TD.rows(), K = ctx.config->num_experts_per_tok;
  k.offsets_E1 = a.alloc(DType::i32, {ctx.config->n_routed_experts + 1});
  k.row_of_TK = a.alloc(DType::i32, {T, K});
  k.slot_of_R = a.alloc(DType::i32, {T * K});
  moe_permute(s, k.offsets_E1, k.row_of_TK, k.slot_of_R, k.choice_TK);
  if (ctx.exchange) ctx.exchange->begin_plan(s, k.plan, k.offsets_E1);
  if (counts_E) moe_count(s, counts_E, k.offsets_E1);
  if (w.shared.gate) ffn_forward_up(s, a, x_TD, w.shared, k.shared);
}

void moe_dispatch(Stream& s, Arena& a, const MoeWeights& w, MoeSaved& k, const PassContext& ctx) {
  const int64_t R = k.slot_of_R.size(), F = w.gate[0].rows;
  k.y_RD = like_rows_of(a, k, R);
  if (ctx.exchange) ctx.exchange->end_plan(s, a, k.plan, R);
  k.mark = a.mark();
  if (!k.plan.is_in_rounds()) {
    const int64_t L = rows_here(k, ctx);
    ExpertsSaved& e = k.experts;
    e.offsets = ctx.exchange ? k.plan.rounds[0].offsets : k.offsets_E1;
    const int64_t held = static_cast<int64_t>(w.gate.size());
    if (!ctx.exchange && held < ctx.config->n_routed_experts) e.offsets = offsets_of_groups(s, a, k.offsets_E1, held);
    e.gu_L2F = a.alloc(k.x_TD.dtype, {L, 2 * F});
    if (ctx.recompute) k.mark = a.mark();
    e.x_LD = like_rows_of(a, k, L);
    e.h_LF = a.alloc(k.x_TD.dtype, {L, F});
    if (!ctx.recompute) k.mark = a.mark();
    if (!ctx.exchange) return gather(s, k, e.x_LD);
  }
  k.x_RD = like_rows_of(a, k, R);
  gather(s, k, k.x_RD);
  if (!k.plan.is_in_rounds()) k.rows = ctx.exchange->begin_dispatch(s, a, k.plan.rounds[0], k.x_RD);
}

void moe_experts(Stream& s, Arena& a, const MoeWeights& w, MoeSaved& k, const PassContext& ctx) {
  if (k.plan.is_in_rounds()) return each_round(s, a, w, k, ctx, [&](RoundRows& rows) { rows.forward(k.x_RD, k.y_RD); });
  if (!ctx.exchange) return experts_forward(s, k.y_RD, here(w, ctx), k.experts);
  ctx.exchange->end_dispatch(s, k.plan.rounds[0], k.rows, k.experts.x_LD);
  const Tensor y_LD = like_rows_of(a, k, rows_here(k, ctx));
  experts_forward(s, y_LD, here(w, ctx), k.experts);
  k.rows = ctx.exchange->begin_combine(s, a, k.plan.rounds[0], k.y_RD, y_LD);
}

void moe_combine(Stream& s, Arena& a, Tensor y_TD, const MoeWeights& w, MoeSaved& k, const PassContext& ctx) {
  if (ctx.exchange && !k.plan.is_in_rounds()) ctx.exchange->end_combine(s, k.plan.rounds[0], k.rows, k.y_RD);
  a.release(k.mark);
  moe_combine_forward(s, y_TD, k.y_RD, k.weight_TK, k.row_of_TK, Out::add);
  if (w.shared.gate) ffn_forward_down(s, a, y_TD, w.shared, k.shared, ctx.recompute);
}

void moe_backward_combine(Stream& s, Arena& a, const Tensor& dy_TD, MoeSaved& k, const PassContext& ctx) {
  const bool is_in_rounds = k.plan.is_in_rounds(), again = ctx.recompute || is_in_rounds;
  const int64_t R = k.slot_of_R.size();
  k.dy_TD = dy_TD;
  k.dlogits_TE = a.f32(k.score_TE.rows(), k.score_TE.cols());
  k.dweight_TK = a.f32(k.weight_TK.rows(), k.weight_TK.cols());
  if (!is_in_rounds) allocate_backward(s, a, k, ctx);
  k.mark = a.mark();
  k.dy_RD = ctx.exchange ? like_rows_of(a, k, R) : k.experts.dy_LD;
  moe_combine_backward(s, k.dy_RD, k.dweight_TK, dy_TD, k.y_RD, k.weight_TK, k.slot_of_R);
  if (again) {
    k.x_RD = ctx.exchange ? like_rows_of(a, k, R) : k.experts.x_LD;
    gather(s, k, k.x_RD);
  }
  if (ctx.exchange && s.is_dry()) like_rows_of(a, k, 2 * (R + rows_here(k, ctx)));  // for rounds, which need more here
  if (ctx.exchange && !is_in_rounds) {
    k.rows = ctx.exchange->begin_dispatch(s, a, k.plan.rounds[0], k.dy_RD);
    if (again) k.rows_again = ctx.exchange->begin_dispatch(s, a, k.plan.rounds[0], k.x_RD);
  }
  backward_route(s, a, k, ctx);
}

void moe_backward_experts(Stream& s, Arena& a, const MoeWeights& w, const MoeWeights& grad, MoeSaved& k,
                          const PassContext& ctx) {
  const int64_t R = k.slot_of_R.size();
  if (k.plan.is_in_rounds()) {
    k.dx_RD = like_rows_of(a, k, R);
    Out out = ctx.gradients;
    return each_round(s, a, w, k, ctx, [&](RoundRows& rows) {
      rows.backward(k.x_RD, k.dy_RD, k.dx_RD, here(grad, ctx), out);
      out = Out::add;
    });
  }
  if (ctx.exchange) {
    ctx.exchange->end_dispatch(s, k.plan.rounds[0], k.rows, k.experts.dy_LD);
    if (ctx.recompute) ctx.exchange->end_dispatch(s, k.plan.rounds[0], k.rows_again, k.experts.x_LD);
  }
  const Tensor dx_LD = like_rows_of(a, k, rows_here(k, ctx));
  experts_backward_input(s, a, dx_LD, here(w, ctx), k.experts);
  k.dx_RD = ctx.exchange ? like_rows_of(a, k, R) : dx_LD;
  if (ctx.exchange) k.rows = ctx.exchange->begin_combine(s, a, k.plan.rounds[0], k.dx_RD, dx_LD);
}

void moe_backward_dispatch(Stream& s, Arena& a, Tensor dx_TD, const MoeWeights& w, MoeSaved& k,
                           const PassContext& ctx) {
  if (ctx.exchange && !k.plan.is_in_rounds()) ctx.exchange->end_combine(s, k.plan.rounds[0], k.rows, k.dx_RD);
  moe_gather_backward(s, dx_TD, k.dx_RD, k.row_of_TK, Out::set);
  a.release(k.mark);
  linear_backward_input(s, dx_TD, k.dlogits_TE, w.router, Out::add);  // forward: logits = x Wr'
  if (!w.shared.gate) return;
  const Tensor dshared_TD = a.alloc(dx_TD.dtype, {dx_TD.rows(), dx_TD.cols()});
  ffn_backward_input(s, a, dshared_TD, k.dy_TD, w.shared, k.shared);
  add(s, dx_TD, dx_TD, dshared_TD);
}

void moe_backward_weight_experts(Stream& s, const MoeWeights& grad, const MoeWeights& w, const MoeSaved& k,
                                 const PassContext& ctx) {
  if (!k.plan.is_in_rounds()) experts_backward_weight(s, here(grad, ctx), here(w, ctx), k.experts, ctx.gradients);
  linear_backward_weight(s, grad.router, k.dlogits_TE, k.x_TD, w.router.format, ctx.gradients);
}

void moe_backward_weight_shared(Stream& s, const MoeWeights& grad, const MoeWeights& w, const MoeSaved& k, Out out) {
  if (w.shared.gate) ffn_backward_weight(s, grad.shared, w.shared, k.shared, out);
}

}  // namespace sluice
