#include "model/size.h"

#include "model/config.h"

namespace sluice {
namespace {

int64_t ffn_parameters(const FfnWeights& w) { return w.gate.size() + w.up.size() + w.down.size(); }

int64_t mla_matrices(const MlaWeights& w) {
  return w.q_proj.size() + w.q_a.size() + w.q_b.size() + w.kv_a.size() + w.kv_b.size() + w.o.size();
}

/// Parameters in matrix products for one token.
int64_t active_matmul(const BlockWeights& w, const HfConfig& c) {
  int64_t n = mla_matrices(w.mla) + ffn_parameters(w.dense) + ffn_parameters(w.moe.shared) + w.moe.router.size();
  if (w.is_moe) n += c.num_experts_per_tok * (w.moe.gate[0].size() + w.moe.up[0].size() + w.moe.down[0].size());
  return n;
}

int64_t vectors(const BlockWeights& w) {
  return w.attn_norm.size() + w.ffn_norm.size() + w.mla.q_a_norm.size() + w.mla.kv_a_norm.size() + w.moe.bias.size();
}

}  // namespace

ModelSize model_size(const HfConfig& c, int64_t mtp_modules) {
  ModelSize s;
  ModelWeights w = weight_shapes(c, 0);
  for (const Param& p : parameters(w)) s.main += p.matrix->size();
  ModelWeights with_mtp = weight_shapes(c, mtp_modules);
  for (const Param& p : parameters(with_mtp)) s.mtp += p.matrix->size();
  s.mtp -= s.main;
  s.mtp_copies = mtp_modules * (w.embed.size() + w.head.size());
  for (const BlockWeights& l : w.layers) s.active += active_matmul(l, c) + vectors(l);
  s.active += w.norm.size() + w.head.size();
  s.active_with_embedding = s.active + w.embed.size();
  s.kv_bytes_per_token = 2 * c.num_hidden_layers * (c.kv_lora_rank + c.qk_rope_head_dim);
  return s;
}

double training_flops_per_token(const HfConfig& c, int64_t mtp_modules, int64_t tokens) {
  ModelWeights w = weight_shapes(c, mtp_modules);
  int64_t matmul = (1 + mtp_modules) * w.head.size();
  for (const BlockWeights& l : w.layers) matmul += active_matmul(l, c);
  for (const MtpWeights& m : w.mtp) matmul += m.eh_proj.size() + active_matmul(m.block, c);
  const int64_t head_dims = c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim;
  const double keys = static_cast<double>(tokens + 1) / 2;  // seen by the average query
  const double attention =
      6.0 * static_cast<double>((c.num_hidden_layers + mtp_modules) * c.num_attention_heads * head_dims) * keys;
  return 6.0 * static_cast<double>(matmul) + attention;
}

StoredBytes stored_bytes(const HfConfig& c, int64_t mtp_modules, Precision precision) {
  StoredBytes b;
  ModelWeights w = weight_shapes(c, mtp_modules);
  for (const Param& p : parameters(w)) {
    if (p.kind == ParamKind::router_bias || precision == Precision::f32) {
      b.f32 += 4 * p.matrix->size();
    } else if (p.kind == ParamKind::linear && precision == Precision::fp8) {
      b.fp8 += p.matrix->size();
      b.f32 += 4 * p.matrix->scale_rows() * p.matrix->scale_cols();
    } else {
      b.bf16 += 2 * p.matrix->size();
    }
  }
  const int64_t copies = mtp_modules * (w.embed.size() + w.head.size());
  precision == Precision::f32 ? b.f32 += 4 * copies : b.bf16 += 2 * copies;
  return b;
}

}  // namespace sluice
