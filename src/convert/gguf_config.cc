#include "convert/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"

namespace sluice {
namespace {

constexpr const char* kArchitecture = "deepseek2";
constexpr int64_t kSoftmax = 1, kSigmoid = 2;  // expert_gating_func
// yarn_log_multiplier is this times mscale_all_dim.
constexpr double kLogMultiplier = 0.1;

std::string key(std::string_view name) { return fmt::format("{}.{}", kArchitecture, name); }

/// The shortest decimal number that the file's float32 can have been: 2.446, not 2.446000099182129.
double decimal(double value) {
  const float f = static_cast<float>(value);
  return static_cast<double>(f) == value ? std::stod(fmt::format("{}", f)) : value;
}

/// The keys of the architecture, each checked as it is read.
class Keys {
 public:
  explicit Keys(const GgufMetadata& metadata) : metadata_(metadata) {}

  const std::string& file() const { return metadata_.file(); }
  const GgufMetadata& metadata() const { return metadata_; }
  bool has(std::string_view name) const { return metadata_.value(key(name)) != nullptr; }

  int64_t integer(std::string_view name, int64_t low) const {
    const int64_t value = metadata_.get<int64_t>(key(name));
    if (value < low || value > INT32_MAX)
      fail("{}: {}: expected an integer from {} to {}, found {}", file(), key(name), low, INT32_MAX, value);
    return value;
  }
  int64_t integer(std::string_view name, int64_t low, int64_t absent) const {
    return has(name) ? integer(name, low) : absent;
  }
  double number(std::string_view name, double absent) const {
    const auto value = metadata_.find<double>(key(name));
    if (value && !std::isfinite(*value)) fail("{}: {}: expected a finite number, found {}", file(), key(name), *value);
    return value ? decimal(*value) : absent;
  }
  bool boolean(std::string_view name, bool absent) const { return metadata_.find<bool>(key(name)).value_or(absent); }
  std::string text(std::string_view name, std::string_view absent) const {
    return std::string(metadata_.find<std::string_view>(key(name)).value_or(absent));
  }
  std::optional<int64_t> token(std::string_view name) const {
    return metadata_.find<int64_t>(fmt::format("tokenizer.ggml.{}", name));
  }

 private:
  const GgufMetadata& metadata_;
};

int64_t read_vocab_size(const Keys& k) {
  if (k.has("vocab_size")) return k.integer("vocab_size", 1);
  const GgufValue* tokens = k.metadata().value("tokenizer.ggml.tokens");
  if (!tokens || !tokens->is_array)
    fail("{}: {}: expected it or an array tokenizer.ggml.tokens, found neither", k.file(), key("vocab_size"));
  return static_cast<int64_t>(std::min<uint64_t>(tokens->count, INT32_MAX));
}

void read_sizes(const Keys& k, HfConfig& c) {
  c.vocab_size = read_vocab_size(k);
  c.max_position_embeddings = k.integer("context_length", 1);
  c.hidden_size = k.integer("embedding_length", 1);
  c.intermediate_size = k.integer("feed_forward_length", 1);
  const int64_t blocks = k.integer("block_count", 1);
  c.num_nextn_predict_layers = k.integer("nextn_predict_layers", 0, 0);
  if (c.num_nextn_predict_layers >= blocks)
    fail("{}: {}: expected less than {} {}, found {}", k.file(), key("nextn_predict_layers"), key("block_count"),
         blocks, c.num_nextn_predict_layers);
  c.num_hidden_layers = blocks - c.num_nextn_predict_layers;
  c.first_k_dense_replace = k.integer("leading_dense_block_count", 0);
  c.rms_norm_eps = k.number("attention.layer_norm_rms_epsilon", 1e-6);
}

void read_attention(const Keys& k, HfConfig& c) {
  c.num_attention_heads = c.num_key_value_heads = k.integer("attention.head_count", 1);
  c.q_lora_rank = k.integer("attention.q_lora_rank", 0, 0);
  c.kv_lora_rank = k.integer("attention.kv_lora_rank", 1);
  c.qk_rope_head_dim = k.integer("rope.dimension_count", 1);
  const bool is_split = k.has("attention.key_length_mla");
  const char* key_length = is_split ? "attention.key_length_mla" : "attention.key_length";
  const int64_t qk = k.integer(key_length, 1);
  if (qk <= c.qk_rope_head_dim)
    fail("{}: {}: expected more than {} {}, found {}", k.file(), key(key_length), key("rope.dimension_count"),
         c.qk_rope_head_dim, qk);
  c.qk_nope_head_dim = qk - c.qk_rope_head_dim;
  c.v_head_dim = k.integer(is_split ? "attention.value_length_mla" : "attention.value_length", 1);
}

void read_router(const Keys& k, HfConfig& c) {
  const int64_t gating = k.integer("expert_gating_func", 0, kSoftmax);
  // Old files say 0 for "as the architecture was then".
  if (gating != kSigmoid && gating != kSoftmax && gating != 0)
    fail("{}: {}: expected {} (softmax) or {} (sigmoid), found {}", k.file(), key("expert_gating_func"), kSoftmax,
         kSigmoid, gating);
  const bool sigmoid = gating == kSigmoid;
  c.model_type = sigmoid ? "deepseek_v3" : "deepseek_v2";
  c.scoring_func = sigmoid ? "sigmoid" : "softmax";
  c.norm_topk_prob = k.boolean("expert_weights_norm", false);
  c.routed_scaling_factor = k.number("expert_weights_scale", 1);
  c.n_routed_experts = k.integer("expert_count", 0, 0);
  if (c.n_routed_experts) {
    const bool is_v3 = c.n_routed_experts == 256;  // older files of V3 and R1 leave the groups out
    c.n_group = k.integer("expert_group_count", 0, is_v3 ? 8 : 1);
    c.topk_group = k.integer("expert_group_used_count", 0, is_v3 ? 4 : 1);
    c.n_group = std::max<int64_t>(c.n_group, 1);
    c.topk_group = std::max<int64_t>(c.topk_group, 1);
    c.num_experts_per_tok = k.integer("expert_used_count", 1);
    c.n_shared_experts = k.integer("expert_shared_count", 0, 0);
    c.moe_intermediate_size = k.integer("expert_feed_forward_length", 1);
  }
  c.topk_method = sigmoid ? "noaux_tc" : c.n_group > 1 ? "group_limited_greedy" : "greedy";
}

void read_rope(const Keys& k, HfConfig& c) {
  c.rope_theta = k.number("rope.freq_base", 10000);
  const std::string type = k.text("rope.scaling.type", "none");
  if (type == "none") return;
  if (type != "yarn")
    fail("{}: {}: expected \"yarn\" or \"none\", found {:?}", k.file(), key("rope.scaling.type"), type.substr(0, 60));
  HfYarn& y = c.yarn.emplace();
  y.factor = k.number("rope.scaling.factor", 0);
  y.original_max_position_embeddings = k.integer("rope.scaling.original_context_length", 1);
  y.beta_fast = k.number("rope.scaling.yarn_beta_fast", 32);
  y.beta_slow = k.number("rope.scaling.yarn_beta_slow", 1);
  const double multiplier = k.number("rope.scaling.yarn_log_multiplier", 0);
  // Equal, so that cos and sin have magnitude 1 (specification 10.5).
  y.mscale = y.mscale_all_dim = decimal(static_cast<double>(static_cast<float>(multiplier / kLogMultiplier)));
}

/// What GGUF has no key for.
void reject_unsupported(const HfConfig& c, int64_t mtp_modules) {
  if (c.n_routed_experts && c.moe_layer_freq != 1)
    fail("moe_layer_freq: expected 1 for a GGUF file, found {}", c.moe_layer_freq);
  if (c.yarn && c.yarn->factor > 1 && c.yarn->mscale != c.yarn->mscale_all_dim)
    fail("rope_scaling: mscale: expected mscale_all_dim ({}) for a GGUF file, found {}", c.yarn->mscale_all_dim,
         c.yarn->mscale);
  if (mtp_modules > 1) fail("num_nextn_predict_layers: expected 0 or 1 for a GGUF file, found {}", mtp_modules);
}

/// Adds keys with the types that public converters use.
class KeyWriter {
 public:
  explicit KeyWriter(GgufMetadataBuilder& metadata) : metadata_(metadata) {}
  KeyWriter& integer(std::string_view name, int64_t value) {
    metadata_.add(key(name), static_cast<uint32_t>(value));
    return *this;
  }
  KeyWriter& number(std::string_view name, double value) {
    metadata_.add(key(name), static_cast<float>(value));
    return *this;
  }
  GgufMetadataBuilder& plain() { return metadata_; }

 private:
  GgufMetadataBuilder& metadata_;
};

void write_attention(KeyWriter& w, const HfConfig& c, GgufLayout layout) {
  const int64_t qk = c.qk_nope_head_dim + c.qk_rope_head_dim;
  const bool split = layout == GgufLayout::split;
  w.integer("attention.head_count", c.num_attention_heads);
  w.integer("attention.head_count_kv", split ? 1 : c.num_attention_heads);
  w.number("attention.layer_norm_rms_epsilon", c.rms_norm_eps);
  if (c.q_lora_rank) w.integer("attention.q_lora_rank", c.q_lora_rank);
  w.integer("attention.kv_lora_rank", c.kv_lora_rank);
  w.integer("attention.key_length", split ? c.kv_lora_rank + c.qk_rope_head_dim : qk);
  w.integer("attention.value_length", split ? c.kv_lora_rank : c.v_head_dim);
  if (split) w.integer("attention.key_length_mla", qk).integer("attention.value_length_mla", c.v_head_dim);
}

void write_experts(KeyWriter& w, const HfConfig& c) {
  w.integer("expert_count", c.n_routed_experts);
  w.integer("expert_used_count", c.num_experts_per_tok);
  w.integer("expert_shared_count", c.n_shared_experts);
  w.integer("expert_feed_forward_length", c.moe_intermediate_size);
  w.number("expert_weights_scale", c.routed_scaling_factor);
  w.plain().add(key("expert_weights_norm"), c.norm_topk_prob);
  w.integer("expert_gating_func", c.scoring_func == "sigmoid" ? kSigmoid : kSoftmax);
  if (c.n_routed_experts) w.integer("expert_group_count", c.n_group).integer("expert_group_used_count", c.topk_group);
}

void write_rope(KeyWriter& w, const HfConfig& c) {
  w.integer("rope.dimension_count", c.qk_rope_head_dim);
  w.number("rope.freq_base", c.rope_theta);
  if (!c.yarn) return;
  w.plain().add(key("rope.scaling.type"), "yarn");
  w.number("rope.scaling.factor", c.yarn->factor);
  w.integer("rope.scaling.original_context_length", c.yarn->original_max_position_embeddings);
  w.number("rope.scaling.yarn_log_multiplier", kLogMultiplier * c.yarn->mscale_all_dim);
  if (c.yarn->beta_fast != HfYarn().beta_fast) w.number("rope.scaling.yarn_beta_fast", c.yarn->beta_fast);
  if (c.yarn->beta_slow != HfYarn().beta_slow) w.number("rope.scaling.yarn_beta_slow", c.yarn->beta_slow);
}

}  // namespace

HfConfig read_gguf_config(const GgufMetadata& metadata) {
  const Keys k(metadata);
  const auto architecture = metadata.get<std::string_view>("general.architecture");
  if (architecture != kArchitecture)
    fail("{}: general.architecture: expected {:?}, found {:?}", k.file(), kArchitecture, architecture.substr(0, 60));
  HfConfig c;
  read_sizes(k, c);
  read_attention(k, c);
  read_router(k, c);
  read_rope(k, c);
  c.bos_token_id = k.token("bos_token_id");
  for (const char* end : {"eos_token_id", "eot_token_id"})
    if (const auto id = k.token(end);
        id && std::find(c.eos_token_id.begin(), c.eos_token_id.end(), *id) == c.eos_token_id.end())
      c.eos_token_id.push_back(*id);
  c.pad_token_id = k.token("padding_token_id");
  // The ranges, and what one value says about another, are checked where config.json is read.
  return parse_hf_config(write_hf_config(c), k.file());
}

void add_gguf_config(GgufMetadataBuilder& metadata, const HfConfig& c, GgufLayout layout, int64_t mtp_modules) {
  reject_unsupported(c, mtp_modules);
  metadata.add("general.architecture", kArchitecture);
  KeyWriter w(metadata);
  w.integer("block_count", c.num_hidden_layers + mtp_modules);
  if (mtp_modules) w.integer("nextn_predict_layers", mtp_modules);
  w.integer("context_length", c.max_position_embeddings);
  w.integer("vocab_size", c.vocab_size);
  w.integer("embedding_length", c.hidden_size);
  w.integer("feed_forward_length", c.intermediate_size);
  // Without experts every layer is dense, whatever config.json says of the first with experts.
  const int64_t blocks = c.num_hidden_layers + mtp_modules;
  w.integer("leading_dense_block_count", c.n_routed_experts ? std::min(c.first_k_dense_replace, blocks) : blocks);
  write_attention(w, c, layout);
  write_experts(w, c);
  write_rope(w, c);
}

}  // namespace sluice
