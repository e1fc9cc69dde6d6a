// Routing of tokens to experts (specification 3).  T tokens, E experts, K experts per token (slots), R = T K rows,
// D columns, B sequences. Router arithmetic is float32 throughout. choice_TK i32; score_TE, weight_TK, logits_TE f32.
// Row order: rows sorted by expert, within an expert by slot index t K + k (a stable scatter).
#pragma once
#include "base/stream.h"
#include "base/tensor.h"
#include "ops/linear.h"

namespace sluice {

enum class Scoring : uint8_t { sigmoid, softmax };
/// How experts are chosen: V3's noaux_tc (groups by the sum of their two best biased scores), V2's
/// group_limited_greedy (groups by their best score), greedy (no groups).
enum class TopkMethod : uint8_t { noaux_tc, group_limited_greedy, greedy };

struct RouterConfig {
  int64_t n_group = 1, topk_group = 1, top_k = 1;
  Scoring scoring = Scoring::sigmoid;
  TopkMethod method = TopkMethod::noaux_tc;
  bool norm_topk_prob = true;
  float scale = 1;  // routed_scaling_factor; V2 applies it only where norm_topk_prob does not (specification 3.4)
};

/// score = sigmoid|softmax(logits); choice = the top K of score + bias in the kept groups (ties: lowest index; order:
/// descending); weight from the unbiased scores. `bias_E` (f32) may be empty.
void route_forward(Stream& s, Tensor choice_TK, Tensor weight_TK, Tensor score_TE, const Tensor& logits_TE,
                   const Tensor& bias_E, const RouterConfig& config);
/// dlogits (=) from the gradient of the weights and, unless empty, `dscore_TE` of the balance loss (3.6, 3.8).
void route_backward(Stream& s, Tensor dlogits_TE, const Tensor& dweight_TK, const Tensor& dscore_TE,
                    const Tensor& choice_TK, const Tensor& score_TE, const RouterConfig& config);

/// Sequence-wise balance loss with alpha = 1 (3.6): f_BE = (E / (K S)) counts, loss_B = sum_i f_i P_i. Counts are those
/// of the unbiased top K of all experts, or of `choice_TK` unless it is empty. Sequence b owns rows [b S, (b+1) S).
void balance_forward(Stream& s, Tensor loss_B, Tensor f_BE, const Tensor& score_TE, const Tensor& choice_TK,
                     int64_t top_k);
/// dscore_TE (=) gradient of coefficient * sum_b loss_b; flows through P only.
void balance_backward(Stream& s, Tensor dscore_TE, const Tensor& f_BE, const Tensor& score_TE, float coefficient);

/// offsets_E1 (i32, E + 1), row_of_TK (i32): the row of slot (t, k), slot_of_R (i32): the slot t K + k of each row.
void moe_permute(Stream& s, Tensor offsets_E1, Tensor row_of_TK, Tensor slot_of_R, const Tensor& choice_TK);
/// counts_E (i64) += rows per expert.
void moe_count(Stream& s, Tensor counts_E, const Tensor& offsets_E1);

/// x_RD[r] = x_TD[slot_of_R[r] / K].
void moe_gather_forward(Stream& s, Tensor x_RD, const Tensor& x_TD, const Tensor& slot_of_R, int64_t top_k);
/// dx_TD (=|+=) sum over k of dx_RD[row_of_TK[t, k]], k ascending, in float32.
void moe_gather_backward(Stream& s, Tensor dx_TD, const Tensor& dx_RD, const Tensor& row_of_TK, Out out);
/// y_TD (=|+=) sum over k of weight_TK y_RD[row_of_TK[t, k]], k ascending, in float32, one rounding.
void moe_combine_forward(Stream& s, Tensor y_TD, const Tensor& y_RD, const Tensor& weight_TK, const Tensor& row_of_TK,
                         Out out);
/// dy_RD[r] = weight[slot] dy_TD[token],  dweight_TK[slot] = dy_TD[token] . y_RD[r].
void moe_combine_backward(Stream& s, Tensor dy_RD, Tensor dweight_TK, const Tensor& dy_TD, const Tensor& y_RD,
                          const Tensor& weight_TK, const Tensor& slot_of_R);

/// bias_E += speed * sign(mean(counts) - counts), sign(0) = 0 (3.5). bias f32, counts i64.
void moe_bias_update(Stream& s, Tensor bias_E, const Tensor& counts_E, float speed);

namespace cpu {
decltype(sluice::route_forward) route_forward;
decltype(sluice::route_backward) route_backward;
decltype(sluice::balance_forward) balance_forward;
decltype(sluice::balance_backward) balance_backward;
decltype(sluice::moe_permute) moe_permute;
decltype(sluice::moe_count) moe_count;
decltype(sluice::moe_gather_forward) moe_gather_forward;
decltype(sluice::moe_gather_backward) moe_gather_backward;
decltype(sluice::moe_combine_forward) moe_combine_forward;
decltype(sluice::moe_combine_backward) moe_combine_backward;
decltype(sluice::moe_bias_update) moe_bias_update;
}  // namespace cpu
namespace cuda {
decltype(sluice::route_forward) route_forward;
decltype(sluice::route_backward) route_backward;
decltype(sluice::balance_forward) balance_forward;
decltype(sluice::balance_backward) balance_backward;
decltype(sluice::moe_permute) moe_permute;
decltype(sluice::moe_count) moe_count;
decltype(sluice::moe_gather_forward) moe_gather_forward;
decltype(sluice::moe_gather_backward) moe_gather_backward;
decltype(sluice::moe_combine_forward) moe_combine_forward;
decltype(sluice::moe_combine_backward) moe_combine_backward;
decltype(sluice::moe_bias_update) moe_bias_update;
}  // namespace cuda

}  // namespace sluice
