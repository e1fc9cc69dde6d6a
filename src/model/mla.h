// Multi-head latent attention (specification 2.2, 2.9).  T = B S tokens, D model, H heads, Q and C latent ranks,
// A = C + rope: a row of `a_TA` is [latent before its norm | shared rope key after RoPE].
#pragma once
#include "base/arena.h"
#include "model/config.h"
#include "model/weights.h"
#include "ops/linear.h"

namespace sluice {

class ExpertExchange;

/// What the training recipe adds to routing.
struct BalanceOptions {
  float coefficient = 0;       // d total loss / d balance loss of one sequence: alpha / sequences
  bool routed_counts = false;  // count the actual (biased) choices instead of the unbiased top K (specification 3.6)
};

/// What a pass over a batch needs besides weights: B sequences of S tokens each, T = B S rows.
struct PassContext {
  const HfConfig* config;
  int64_t batch, tokens;  // B, S
  Tensor position_T;      // i32, index within the sequence
  Tensor first_T;         // i32, first visible index (attention.h); empty: all
  Tensor rope_table;      // (at least S, rope) f32
  BalanceOptions balance;
  ExpertExchange* exchange;  // null: all experts are here
  Out gradients;             // of matrices: set, or added
  bool recompute;            // compute latent norms, up-projections, gathered rows and SwiGLU products again (spec 2.9)
};

struct MlaSaved {
  Tensor x_TD;
  Tensor cq_pre_TQ, cq_r_T, cq_TQ, q_TH;  // cq*: empty where q is not compressed
  Tensor a_TA, c_r_T, c_TC, kv_TH;
  Tensor o_TH, lse_TH;
  Tensor dy_TD, dq_TH, dcq_TQ, dcq_pre_TQ, dkv_TH, dc_TC, da_TA;  // for backward_weight
};

/// y += attention(x).
void mla_forward(Stream& s, Arena& a, Tensor y_TD, const Tensor& x_TD, const MlaWeights& w, MlaSaved& k,
                 const PassContext& ctx);
/// dx = gradient of x from dy.
void mla_backward_input(Stream& s, Arena& a, Tensor dx_TD, const Tensor& dy_TD, const MlaWeights& w, MlaSaved& k,
                        const PassContext& ctx);
/// grad (=|+=) gradients of the weights.
void mla_backward_weight(Stream& s, const MlaWeights& grad, const MlaWeights& w, const MlaSaved& k, Out out);

}  // namespace sluice
