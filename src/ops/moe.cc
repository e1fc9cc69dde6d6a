#include "ops/moe.h"

#include "ops/dispatch.h"

namespace sluice {
namespace {

void check_router(const Tensor& choice_TK, const Tensor& score_TE, const RouterConfig& c) {
  const int64_t E = score_TE.cols();
  check(choice_TK.dtype == DType::i32 && choice_TK.rows() == score_TE.rows() && choice_TK.cols() == c.top_k,
        "route: expected choice (T, K) i32");
  check(score_TE.dtype == DType::f32 && score_TE.packed() && E % c.n_group == 0 && c.topk_group <= c.n_group,
        "route: expected score (T, E) f32 and whole groups");
  check(c.top_k >= 1 && c.top_k <= (c.method == TopkMethod::greedy ? E : E / c.n_group * c.topk_group),
        "route: expected at most as many choices as experts in the kept groups");
}

bool is_i32(const Tensor& t, int64_t size) { return t.dtype == DType::i32 && t.size() == size && t.packed(); }

}  // namespace

void route_forward(Stream& s, Tensor choice_TK, Tensor weight_TK, Tensor score_TE, const Tensor& logits_TE,
                   const Tensor& bias_E, const RouterConfig& config) {
  check_router(choice_TK, score_TE, config);
  check(same(logits_TE, score_TE) && logits_TE.packed(), "route_forward: expected logits as score");
  check(weight_TK.dtype == DType::f32 && weight_TK.size() == choice_TK.size(), "route_forward: expected weight (T, K)");
  check(!bias_E || (bias_E.dtype == DType::f32 && bias_E.size() == score_TE.cols()), "route_forward: bias (E) f32");
  dispatch<cpu::route_forward, cuda::route_forward>(s, choice_TK, weight_TK, score_TE, logits_TE, bias_E, config);
}

void route_backward(Stream& s, Tensor dlogits_TE, const Tensor& dweight_TK, const Tensor& dscore_TE,
                    const Tensor& choice_TK, const Tensor& score_TE, const RouterConfig& config) {
  check_router(choice_TK, score_TE, config);
  check(same(dlogits_TE, score_TE) && dlogits_TE.packed(), "route_backward: expected dlogits as score");
  check(!dscore_TE || (same(dscore_TE, score_TE) && dscore_TE.packed()), "route_backward: expected dscore as score");
  check(dweight_TK.dtype == DType::f32 && dweight_TK.size() == choice_TK.size(), "route_backward: dweight (T, K)");
  dispatch<cpu::route_backward, cuda::route_backward>(s, dlogits_TE, dweight_TK, dscore_TE, choice_TK, score_TE,
                                                      config);
}

void balance_forward(Stream& s, Tensor loss_B, Tensor f_BE, const Tensor& score_TE, const Tensor& choice_TK,
                     int64_t top_k) {
  check(loss_B.size() == f_BE.rows() && f_BE.cols() == score_TE.cols() && score_TE.rows() % loss_B.size() == 0,
        "balance_forward: expected loss (B), f (B, E), score (B S, E)");
  check(top_k >= 1 && top_k <= score_TE.cols(), "balance_forward: expected 1 <= top_k <= E");
  dispatch<cpu::balance_forward, cuda::balance_forward>(s, loss_B, f_BE, score_TE, choice_TK, top_k);
}

void balance_backward(Stream& s, Tensor dscore_TE, const Tensor& f_BE, const Tensor& score_TE, float coefficient) {
  check(same(dscore_TE, score_TE) && f_BE.cols() == score_TE.cols() && score_TE.rows() % f_BE.rows() == 0,
        "balance_backward: expected dscore as score, f (B, E)");
  dispatch<cpu::balance_backward, cuda::balance_backward>(s, dscore_TE, f_BE, score_TE, coefficient);
}

void moe_permute(Stream& s, Tensor offsets_E1, Tensor row_of_TK, Tensor slot_of_R, const Tensor& choice_TK) {
  check(offsets_E1.dtype == DType::i32 && is_i32(row_of_TK, choice_TK.size()) && is_i32(slot_of_R, choice_TK.size()),
        "moe_permute: expected i32 offsets (E + 1), row (T, K), slot (R)");
  dispatch<cpu::moe_permute, cuda::moe_permute>(s, offsets_E1, row_of_TK, slot_of_R, choice_TK);
}

void moe_count(Stream& s, Tensor counts_E, const Tensor& offsets_E1) {
  check(counts_E.dtype == DType::i64 && offsets_E1.size() == counts_E.size() + 1, "moe_count: expected counts (E) i64");
  dispatch<cpu::moe_count, cuda::moe_count>(s, counts_E, offsets_E1);
}

void moe_gather_forward(Stream& s, Tensor x_RD, const Tensor& x_TD, const Tensor& slot_of_R, int64_t top_k) {
  check(x_RD.cols() == x_TD.cols() && x_RD.dtype == x_TD.dtype && x_RD.rows() == x_TD.rows() * top_k &&
            is_i32(slot_of_R, x_RD.rows()),
        "moe_gather_forward: expected x_RD (T K, D), slot (R)");
  dispatch<cpu::moe_gather_forward, cuda::moe_gather_forward>(s, x_RD, x_TD, slot_of_R, top_k);
}

void moe_gather_backward(Stream& s, Tensor dx_TD, const Tensor& dx_RD, const Tensor& row_of_TK, Out out) {
  check(dx_RD.cols() == dx_TD.cols() && dx_RD.dtype == dx_TD.dtype && row_of_TK.rows() == dx_TD.rows(),
        "moe_gather_backward: expected dx_RD (R, D), row (T, K)");
  dispatch<cpu::moe_gather_backward, cuda::moe_gather_backward>(s, dx_TD, dx_RD, row_of_TK, out);
}

void moe_combine_forward(Stream& s, Tensor y_TD, const Tensor& y_RD, const Tensor& weight_TK, const Tensor& row_of_TK,
                         Out out) {
  check(y_RD.cols() == y_TD.cols() && y_RD.dtype == y_TD.dtype && row_of_TK.rows() == y_TD.rows() &&
            weight_TK.size() == row_of_TK.size(),
        "moe_combine_forward: expected y_RD (R, D), weight and row (T, K)");
  dispatch<cpu::moe_combine_forward, cuda::moe_combine_forward>(s, y_TD, y_RD, weight_TK, row_of_TK, out);
}

void moe_combine_backward(Stream& s, Tensor dy_RD, Tensor dweight_TK, const Tensor& dy_TD, const Tensor& y_RD,
                          const Tensor& weight_TK, const Tensor& slot_of_R) {
  check(same(dy_RD, y_RD) && dy_TD.cols() == y_RD.cols() && dy_TD.dtype == y_RD.dtype &&
            weight_TK.size() == y_RD.rows() && dweight_TK.size() == y_RD.rows() && is_i32(slot_of_R, y_RD.rows()),
        "moe_combine_backward: expected dy_RD as y_RD, weights (T, K), slot (R)");
  dispatch<cpu::moe_combine_backward, cuda::moe_combine_backward>(s, dy_RD, dweight_TK, dy_TD, y_RD, weight_TK,
                                                                  slot_of_R);
}

void moe_bias_update(Stream& s, Tensor bias_E, const Tensor& counts_E, float speed) {
  check(bias_E.dtype == DType::f32 && counts_E.dtype == DType::i64 && bias_E.size() == counts_E.size(),
        "moe_bias_update: expected bias (E) f32, counts (E) i64");
  dispatch<cpu::moe_bias_update, cuda::moe_bias_update>(s, bias_E, counts_E, speed);
}

}  // namespace sluice
