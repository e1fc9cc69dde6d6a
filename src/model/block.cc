#include "model/block.h"

#include "ops/elementwise.h"
#include "ops/norm.h"

namespace sluice {
namespace {

Tensor like(Arena& a, const Tensor& t) { return a.alloc(t.dtype, {t.rows(), t.cols()}); }

float eps(const PassContext& ctx) { return static_cast<float>(ctx.config->rms_norm_eps); }

}  // namespace

void block_forward_attention(Stream& s, Arena& a, Tensor h2_TD, const Tensor& h0_TD, const BlockWeights& w,
                             BlockSaved& k, const PassContext& ctx, const Tensor& counts_E) {
  const int64_t T = h0_TD.rows();
  k.h0_TD = h0_TD;
  k.h2_TD = h2_TD;
  k.r0_T = a.alloc(DType::f32, {T});
  k.r1_T = a.alloc(DType::f32, {T});
  k.h1_TD = like(a, h0_TD);
  k.x0_TD = like(a, h0_TD);
  rmsnorm_forward(s, k.x0_TD, k.r0_T, h0_TD, w.attn_norm.tensor(), eps(ctx));
  copy(s, k.h1_TD, h0_TD);
  mla_forward(s, a, k.h1_TD, k.x0_TD, w.mla, k.mla, ctx);
  k.x1_TD = like(a, h0_TD);
  rmsnorm_forward(s, k.x1_TD, k.r1_T, k.h1_TD, w.ffn_norm.tensor(), eps(ctx));
  if (w.is_moe) moe_route(s, a, k.x1_TD, w.moe, k.moe, ctx, counts_E);
}

void block_forward_dispatch(Stream& s, Arena& a, const BlockWeights& w, BlockSaved& k, const PassContext& ctx) {
  if (w.is_moe) moe_dispatch(s, a, w.moe, k.moe, ctx);
}

void block_forward_experts(Stream& s, Arena& a, const BlockWeights& w, BlockSaved& k, const PassContext& ctx) {
  copy(s, k.h2_TD, k.h1_TD);
  if (w.is_moe) return moe_experts(s, a, w.moe, k.moe, ctx);
  ffn_forward_up(s, a, k.x1_TD, w.dense, k.dense);
  ffn_forward_down(s, a, k.h2_TD, w.dense, k.dense, ctx.recompute);
}

void block_forward_combine(Stream& s, Arena& a, const BlockWeights& w, BlockSaved& k, const PassContext& ctx) {
  if (w.is_moe) moe_combine(s, a, k.h2_TD, w.moe, k.moe, ctx);
}

void block_backward_combine(Stream& s, Arena& a, const Tensor& dh2_TD, const BlockWeights& w, BlockSaved& k,
                            const PassContext& ctx) {
  k.dh2_TD = dh2_TD;
  k.dx1_TD = like(a, dh2_TD);
  k.dx0_TD = like(a, dh2_TD);
  if (w.is_moe) moe_backward_combine(s, a, dh2_TD, k.moe, ctx);
}

void block_backward_experts(Stream& s, Arena& a, const BlockWeights& w, const BlockWeights& grad, BlockSaved& k,
                            const PassContext& ctx) {
  if (w.is_moe)
    moe_backward_experts(s, a, w.moe, grad.moe, k.moe, ctx);
  else
    ffn_backward_input(s, a, k.dx1_TD, k.dh2_TD, w.dense, k.dense);
}

void block_backward_attention(Stream& s, Arena& a, Tensor dh0_TD, const BlockWeights& w, BlockSaved& k,
                              const PassContext& ctx) {
  if (w.is_moe) moe_backward_dispatch(s, a, k.dx1_TD, w.moe, k.moe, ctx);
  const Tensor dh1_TD = like(a, k.dh2_TD);
  rmsnorm_backward_input(s, dh1_TD, k.dx1_TD, k.h1_TD, w.ffn_norm.tensor(), k.r1_T);
  add(s, dh1_TD, dh1_TD, k.dh2_TD);
  mla_backward_input(s, a, k.dx0_TD, dh1_TD, w.mla, k.mla, ctx);
  rmsnorm_backward_input(s, dh0_TD, k.dx0_TD, k.h0_TD, w.attn_norm.tensor(), k.r0_T);
  add(s, dh0_TD, dh0_TD, dh1_TD);
}

void block_backward_weight_experts(Stream& s, const BlockWeights& w, const BlockWeights& grad, const BlockSaved& k,
                                   const PassContext& ctx) {
  if (w.is_moe)
    moe_backward_weight_experts(s, grad.moe, w.moe, k.moe, ctx);
  else
    ffn_backward_weight(s, grad.dense, w.dense, k.dense, ctx.gradients);
}

void block_backward_weight_attention(Stream& s, const BlockWeights& w, const BlockWeights& grad, const BlockSaved& k,
                                     Out out) {
  if (w.is_moe) moe_backward_weight_shared(s, grad.moe, w.moe, k.moe, out);
  mla_backward_weight(s, grad.mla, w.mla, k.mla, out);
  rmsnorm_backward_weight(s, grad.ffn_norm.tensor(), k.dx1_TD, k.h1_TD, k.r1_T);
  rmsnorm_backward_weight(s, grad.attn_norm.tensor(), k.dx0_TD, k.h0_TD, k.r0_T);
}

}  // namespace sluice
