// What the model derives from config.json. The configuration itself is formats/hf_config.h's HfConfig, everywhere.
#pragma once
#include "formats/hf_config.h"
#include "ops/attention.h"
#include "ops/moe.h"

namespace sluice {

/// Whether layer `layer` has experts (specification 1.3); MTP blocks (layer >= num_hidden_layers) do as the rule says.
bool is_moe_layer(const HfConfig& c, int64_t layer);

/// Router of all MoE layers (specification 3.1, 3.4).
RouterConfig router_config(const HfConfig& c);

/// d_qk^(-1/2) m^2 with YaRN's m (specification 2.6).
float softmax_scale(const HfConfig& c);

/// cos and sin of positions [0, table.rows()) into `table` (P, qk_rope_head_dim) f32 in ops/rope.h's layout, with
/// YaRN's frequencies and magnitude where configured (specification 2.5). Angles are computed in double.
void fill_rope_table(const HfConfig& c, Tensor table);

/// Attention of `batch` sequences of `tokens` tokens.
AttentionShape attention_shape(const HfConfig& c, int64_t batch, int64_t tokens);

/// The eps of the two latent norms: 1e-6 whatever rms_norm_eps says (specification 2.2).
constexpr float kLatentNormEps = 1e-6f;

}  // namespace sluice
