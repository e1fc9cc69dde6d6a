// What the tests of model/ share: configurations of a few thousand parameters, weights and batches for them.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "base/rng.h"
#include "model/checkpoint.h"
#include "model/model.h"

namespace sluice::test {

/// A V3 in small: one dense layer and two with experts, a shared expert, q not compressed, plain RoPE, one group.
inline HfConfig tiny_config() {
  HfConfig c;
  c.vocab_size = 29;
  c.hidden_size = 16;
  c.intermediate_size = 20;
  c.moe_intermediate_size = 8;
  c.num_hidden_layers = 3;
  c.first_k_dense_replace = 1;
  c.num_attention_heads = c.num_key_value_heads = 2;
  c.n_routed_experts = 6;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.routed_scaling_factor = 1.5;
  c.kv_lora_rank = 12;
  c.qk_nope_head_dim = 8;
  c.qk_rope_head_dim = 4;
  c.v_head_dim = 6;
  c.max_position_embeddings = 64;
  c.initializer_range = 0.3;
  return c;
}

/// The rest of V3: compressed q, groups of experts, YaRN (whose magnitude is not 1), experts in every second layer.
inline HfConfig grouped_config() {
  HfConfig c = tiny_config();
  c.num_hidden_layers = 4;
  c.first_k_dense_replace = 0;
  c.moe_layer_freq = 2;
  c.n_routed_experts = 8;
  c.n_group = 4;
  c.topk_group = 2;
  c.num_experts_per_tok = 3;
  c.n_shared_experts = 2;
  c.q_lora_rank = 10;
  c.qk_rope_head_dim = 6;
  c.rope_theta = 100;
  c.yarn = HfYarn{4, 8, 1, 1, 0.5, 32};
  return c;
}

/// V2: softmax scores, groups by their best expert, no bias, weights not normalised.
inline HfConfig v2_config() {
  HfConfig c = tiny_config();
  c.model_type = "deepseek_v2";
  c.scoring_func = "softmax";
  c.topk_method = "group_limited_greedy";
  c.norm_topk_prob = false;
  c.n_group = 3;
  c.topk_group = 2;
  c.n_shared_experts = 0;
  return c;
}

/// Matrices N(0, initializer_range^2); norms around 1 and biases around 0, different in every element.
inline RowSource uneven_rows(const HfConfig& c, uint64_t seed) {
  return [matrices = random_rows(c, seed)](const Param& p, int64_t begin, int64_t rows, float* out) {
    matrices({p.name, p.matrix, ParamKind::linear}, begin, rows, out);
    const auto each = [&](auto&& f) { std::transform(out, out + p.matrix->cols, out, f); };
    if (p.kind == ParamKind::norm) each([](float x) { return 1 + 0.7f * x; });
    if (p.kind == ParamKind::router_bias) each([](float x) { return 0.1f * x; });
  };
}

inline Model random_model(Stream& s, const HfConfig& c, int64_t mtp_modules, Precision precision = Precision::f32,
                          uint64_t seed = 1) {
  Model m = allocate_model(c, mtp_modules, precision);
  m.config.num_nextn_predict_layers = mtp_modules;
  fill_model(s, m, uneven_rows(c, seed));
  return m;
}

/// `batch` sequences of `tokens` random ids with all targets. Under `documents`, every sequence holds two documents
/// that do not see each other, the first one a third of it; targets in the other document are none.
inline ModelBatch random_batch(Arena& a, const HfConfig& c, int64_t batch, int64_t tokens, int64_t mtp_modules,
                               bool documents = false, uint64_t seed = 2) {
  const auto vector = [&](int64_t per_sequence, auto&& value) {
    const Tensor t = a.alloc(DType::i32, {batch * per_sequence});
    for (int64_t i = 0; i < t.size(); ++i)
      t.ptr<int32_t>()[i] = static_cast<int32_t>(value(i / per_sequence, i % per_sequence));
    return t;
  };
  ModelBatch b;
  b.batch = batch;
  b.tokens = tokens;
  Rng rng(seed);
  b.ids_T = vector(tokens, [&](int64_t, int64_t) { return rng.below(static_cast<uint64_t>(c.vocab_size)); });
  const int64_t border = documents ? tokens / 3 : 0;
  if (documents) b.first_T = vector(tokens, [&](int64_t, int64_t t) { return t < border ? 0 : border; });
  const auto target = [&](int64_t shift) {
    return [&, shift](int64_t row, int64_t t) {
      const bool inside = t + shift < tokens && (t < border) == (t + shift < border);
      return inside ? b.ids_T.ptr<int32_t>()[row * tokens + t + shift] : -1;
    };
  };
  b.target_T = vector(tokens, target(1));
  for (int64_t k = 0; k < mtp_modules; ++k) b.mtp_target.push_back(vector(tokens - 1 - k, target(k + 2)));
  return b;
}

}  // namespace sluice::test
