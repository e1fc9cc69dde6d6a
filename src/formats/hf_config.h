// config.json and generation_config.json of DeepSeek-V2 and -V3 checkpoints (specification 1.1 and 10.1) as plain
// fields, named as in the file.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

/// `rope_scaling` of type "yarn" (specification 2.5, 2.6).
struct HfYarn {
  double factor = 1;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 1;
  double mscale_all_dim = 0;
  int64_t original_max_position_embeddings = 0;
  bool operator==(const HfYarn&) const = default;
};

/// `quantization_config` with quant_method "fp8", fmt "e4m3", activation_scheme "dynamic".
struct HfQuantization {
  int64_t block_rows = 128;  // weight_block_size
  int64_t block_cols = 128;
  std::string scale_fmt;  // "" (any float32 scale) or "ue8m0" (powers of two)
  bool operator==(const HfQuantization&) const = default;
};

/// The defaults are those of an absent field; sizes without one are required in the file.
struct HfConfig {
  std::string model_type = "deepseek_v3";  // or "deepseek_v2"; "kimi_k2" is read as "deepseek_v3"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;      // of dense layers
  int64_t moe_intermediate_size = 0;  // of one expert; 0 without experts
  int64_t num_hidden_layers = 0;      // without the MTP module
  int64_t first_k_dense_replace = 0;  // first layer with experts; may lie beyond the last layer
  int64_t moe_layer_freq = 1;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  // not used by MLA; absent: num_attention_heads
  int64_t n_routed_experts = 0;     // 0 (null in the file): every layer is dense
  int64_t n_shared_experts = 0;     // 0 (null in the file): none
  int64_t num_experts_per_tok = 0;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  std::string scoring_func = "sigmoid";  // "softmax" with the two other methods; absent: by topk_method
  std::string topk_method = "noaux_tc";  // or "greedy", "group_limited_greedy"; absent: V3 noaux_tc, V2 greedy
  bool norm_topk_prob = true;            // absent: V3 true, V2 false
  double routed_scaling_factor = 1;      // absent: V3 2.5, V2 1
  int64_t q_lora_rank = 0;               // 0 (or null in the file): q is not compressed
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;  // even
  int64_t v_head_dim = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  std::optional<HfYarn> yarn;  // absent: plain RoPE
  int64_t max_position_embeddings = 0;
  int64_t num_nextn_predict_layers = 0;  // MTP modules announced; the tensors decide (specification 10.1)
  std::optional<int64_t> bos_token_id;   // >= 0; may lie outside the vocabulary
  std::vector<int64_t> eos_token_id;     // none, one or several; as above
  std::optional<int64_t> pad_token_id;
  double initializer_range = 0.02;
  std::string torch_dtype;  // "bfloat16", "float32", ...; "" when absent or null
  std::optional<HfQuantization> quantization;
  bool operator==(const HfConfig&) const = default;
};

/// Reads config.json, in the released form or the one transformers 5 writes (`rope_parameters`, `dtype`). `file` names
/// it in messages. Throws Error, one line with file, field, what was expected and found: for malformed JSON, duplicate,
/// missing or ill-typed fields, values out of range or at odds with each other, and features that are not supported
/// (biases, tied embeddings, half-split RoPE rows, other activations, RoPE scalings or quantisations). On return every
/// size is positive and below 2^31 unless 0 is given a meaning above, and the number of parameters is below 2^60.
HfConfig parse_hf_config(std::string_view json, const std::string& file);

/// config.json in the released form (`rope_theta`, `rope_scaling`, `torch_dtype`), which transformers and the public
/// serving engines read. parse_hf_config gives the same struct back.
std::string write_hf_config(const HfConfig& config);

/// generation_config.json: what a sampler takes when the user says nothing.
struct HfGeneration {
  std::optional<int64_t> bos_token_id;
  std::vector<int64_t> eos_token_id;
  std::optional<double> temperature;         // >= 0
  std::optional<double> top_p;               // in (0, 1]
  std::optional<double> min_p;               // in [0, 1]
  std::optional<double> repetition_penalty;  // > 0
  bool operator==(const HfGeneration&) const = default;
};

/// Throws Error as parse_hf_config.
HfGeneration parse_hf_generation(std::string_view json, const std::string& file);
/// With "do_sample": true when a temperature above 0 is set.
std::string write_hf_generation(const HfGeneration& generation);

}  // namespace sluice
