#include "model/mla.h"

#include "ops/attention.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/rope.h"

namespace sluice {
namespace {

AttentionInputs inputs(const MlaSaved& k, const PassContext& ctx) {
  return {k.q_TH, k.kv_TH, k.a_TA.slice_cols(k.c_TC.cols(), ctx.config->qk_rope_head_dim), ctx.first_T};
}

/// The rope part of every head of q.
Tensor q_rope(const Tensor& q_TH, const HfConfig& c) {
  return q_TH.split_heads(c.num_attention_heads).slice_cols(c.qk_nope_head_dim, c.qk_rope_head_dim);
}

/// From cq_pre and a (latents before their norms) to q and keys: what recomputation does again. The rope key in a_TA is
/// already rotated.
void up_project(Stream& s, Arena& a, const MlaWeights& w, MlaSaved& k, const PassContext& ctx) {
  const HfConfig& c = *ctx.config;
  const int64_t T = k.x_TD.rows(), C = c.kv_lora_rank;
  const DType dtype = k.x_TD.dtype;
  k.q_TH = a.alloc(dtype, {T, c.num_attention_heads * (c.qk_nope_head_dim + c.qk_rope_head_dim)});
  if (w.q_a) {
    k.cq_TQ = a.alloc(dtype, {T, c.q_lora_rank});
    rmsnorm_forward(s, k.cq_TQ, k.cq_r_T, k.cq_pre_TQ, w.q_a_norm.tensor(), kLatentNormEps);
    linear_forward(s, k.q_TH, k.cq_TQ, w.q_b);
  } else {
    linear_forward(s, k.q_TH, k.x_TD, w.q_proj);
  }
  rope_forward(s, q_rope(k.q_TH, c), ctx.position_T, ctx.rope_table);
  k.c_TC = a.alloc(dtype, {T, C});
  rmsnorm_forward(s, k.c_TC, k.c_r_T, k.a_TA.slice_cols(0, C), w.kv_a_norm.tensor(), kLatentNormEps);
  k.kv_TH = a.alloc(dtype, {T, w.kv_b.rows});
  linear_forward(s, k.kv_TH, k.c_TC, w.kv_b);
}

}  // namespace

void mla_forward(Stream& s, Arena& a, Tensor y_TD, const Tensor& x_TD, const MlaWeights& w, MlaSaved& k,
                 const PassContext& ctx) {
  const HfConfig& c = *ctx.config;
  const int64_t T = x_TD.rows(), C = c.kv_lora_rank;
  k.x_TD = x_TD;
  if (w.q_a) {
    k.cq_pre_TQ = a.alloc(x_TD.dtype, {T, c.q_lora_rank});
    k.cq_r_T = a.alloc(DType::f32, {T});
    linear_forward(s, k.cq_pre_TQ, x_TD, w.q_a);
  }
  k.a_TA = a.alloc(x_TD.dtype, {T, C + c.qk_rope_head_dim});
  k.c_r_T = a.alloc(DType::f32, {T});
  k.o_TH = a.alloc(x_TD.dtype, {T, c.num_attention_heads * c.v_head_dim});
  k.lse_TH = a.f32(T, c.num_attention_heads);
  const size_t mark = a.mark();
  linear_forward(s, k.a_TA, x_TD, w.kv_a);
  rope_forward(s, k.a_TA.slice_cols(C, c.qk_rope_head_dim), ctx.position_T, ctx.rope_table);
  up_project(s, a, w, k, ctx);
  attention_forward(s, k.o_TH, k.lse_TH, inputs(k, ctx), attention_shape(c, ctx.batch, ctx.tokens));
  linear_forward(s, y_TD, k.o_TH, w.o, Out::add);
  if (ctx.recompute) {
    a.release(mark);
    k.q_TH = k.cq_TQ = k.c_TC = k.kv_TH = Tensor();
  }
}

void mla_backward_input(Stream& s, Arena& a, Tensor dx_TD, const Tensor& dy_TD, const MlaWeights& w, MlaSaved& k,
                        const PassContext& ctx) {
  const HfConfig& c = *ctx.config;
  const int64_t T = dy_TD.rows(), C = c.kv_lora_rank;
  const DType dtype = dy_TD.dtype;
  if (!k.q_TH) up_project(s, a, w, k, ctx);
  k.dy_TD = dy_TD;
  k.dq_TH = a.alloc(dtype, {T, k.q_TH.cols()});
  k.dkv_TH = a.alloc(dtype, {T, k.kv_TH.cols()});
  k.dc_TC = a.alloc(dtype, {T, C});
  k.da_TA = a.alloc(dtype, {T, C + c.qk_rope_head_dim});
  if (w.q_a) {
    k.dcq_TQ = a.alloc(dtype, {T, c.q_lora_rank});
    k.dcq_pre_TQ = a.alloc(dtype, {T, c.q_lora_rank});
  }
  const Tensor dk_rope = k.da_TA.slice_cols(C, c.qk_rope_head_dim);
  const size_t mark = a.mark();
  const Tensor do_TH = a.alloc(dtype, {T, k.o_TH.cols()});
  linear_backward_input(s, do_TH, dy_TD, w.o);  // forward: y = o Wo'
  attention_backward_input(s, {k.dq_TH, k.dkv_TH, dk_rope, {}}, do_TH, inputs(k, ctx), k.o_TH, k.lse_TH,
                           attention_shape(c, ctx.batch, ctx.tokens));
  a.release(mark);
  rope_backward(s, dk_rope, ctx.position_T, ctx.rope_table);
  rope_backward(s, q_rope(k.dq_TH, c), ctx.position_T, ctx.rope_table);
  linear_backward_input(s, k.dc_TC, k.dkv_TH, w.kv_b);  // forward: kv = c Wkvb'
  rmsnorm_backward_input(s, k.da_TA.slice_cols(0, C), k.dc_TC, k.a_TA.slice_cols(0, C), w.kv_a_norm.tensor(), k.c_r_T);
  linear_backward_input(s, dx_TD, k.da_TA, w.kv_a);                                 // forward: a = x Wkva'
  if (!w.q_a) return linear_backward_input(s, dx_TD, k.dq_TH, w.q_proj, Out::add);  // forward: q = x Wq'
  linear_backward_input(s, k.dcq_TQ, k.dq_TH, w.q_b);                               // forward: q = cq Wqb'
  rmsnorm_backward_input(s, k.dcq_pre_TQ, k.dcq_TQ, k.cq_pre_TQ, w.q_a_norm.tensor(), k.cq_r_T);
  linear_backward_input(s, dx_TD, k.dcq_pre_TQ, w.q_a, Out::add);  // forward: cq_pre = x Wqa'
}

void mla_backward_weight(Stream& s, const MlaWeights& grad, const MlaWeights& w, const MlaSaved& k, Out out) {
  const int64_t C = k.dc_TC.cols();
  linear_backward_weight(s, grad.o, k.dy_TD, k.o_TH, w.o.format, out);
  linear_backward_weight(s, grad.kv_b, k.dkv_TH, k.c_TC, w.kv_b.format, out);
  rmsnorm_backward_weight(s, grad.kv_a_norm.tensor(), k.dc_TC, k.a_TA.slice_cols(0, C), k.c_r_T);
  linear_backward_weight(s, grad.kv_a, k.da_TA, k.x_TD, w.kv_a.format, out);
  if (!w.q_a) return linear_backward_weight(s, grad.q_proj, k.dq_TH, k.x_TD, w.q_proj.format, out);
  linear_backward_weight(s, grad.q_b, k.dq_TH, k.cq_TQ, w.q_b.format, out);
  rmsnorm_backward_weight(s, grad.q_a_norm.tensor(), k.dcq_TQ, k.cq_pre_TQ, k.cq_r_T);
  linear_backward_weight(s, grad.q_a, k.dcq_pre_TQ, k.x_TD, w.q_a.format, out);
}

}  // namespace sluice
