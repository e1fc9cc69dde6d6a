#include "formats/hf_config.h"

#include <cmath>
#include <initializer_list>

#include "base/error.h"
#include "formats/json.h"

namespace sluice {
namespace {

constexpr int64_t kMaxInt = INT32_MAX;
constexpr size_t kMaxFileBytes = size_t{1} << 20;

/// The fields of one JSON object, each checked as it is read. A null field counts as absent.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  const std::string& where() const { return where_; }
  /// Null when absent.
  const Json* find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  bool has_key(const char* key) const { return object_.contains(key); }

  int64_t integer(const char* key, int64_t low, int64_t high) const {
    const Json* v = find(key);
    const std::string found = v ? json_excerpt(*v) : has_key(key) ? "null" : "nothing";
    // An integer over INT64_MAX becomes negative here, so it is compared as what it is.
    const bool is_int = v && v->is_number_integer() && !(v->is_number_unsigned() && v->get<uint64_t>() > INT64_MAX);
    if (!is_int || v->get<int64_t>() < low || v->get<int64_t>() > high)
      fail("{}: {}: expected an integer from {} to {}, found {}", where_, key, low, high, found);
    return v->get<int64_t>();
  }
  int64_t integer(const char* key, int64_t low, int64_t high, int64_t absent) const {
    return find(key) ? integer(key, low, high) : absent;
  }
  int64_t size(const char* key) const { return integer(key, 1, kMaxInt); }

  double number(const char* key, double low, double high, double absent) const {
    const Json* v = find(key);
    if (!v) return absent;
    if (!v->is_number() || !(v->get<double>() >= low && v->get<double>() <= high))
      fail("{}: {}: expected a number from {} to {}, found {}", where_, key, low, high, json_excerpt(*v));
    return v->get<double>();
  }
  bool boolean(const char* key, bool absent) const {
    const Json* v = find(key);
    if (!v) return absent;
    if (!v->is_boolean()) fail("{}: {}: expected true or false, found {}", where_, key, json_excerpt(*v));
    return v->get<bool>();
  }
  std::string text(const char* key, const std::string& absent) const {
    return find(key) ? json_string(object_, key, where_) : absent;
  }
  /// One of `choices`.
  std::string choice(const char* key, std::initializer_list<std::string_view> choices, const char* absent) const {
    const std::string value = text(key, absent);
    for (const std::string_view c : choices)
      if (value == c) return value;
    fail("{}: {}: expected {}, found {}", where_, key, fmt::join(choices, " or "), json_excerpt(value));
  }
  /// Token ids: an integer, an array of integers, or nothing.
  std::vector<int64_t> ids(const char* key) const;
  std::optional<int64_t> id(const char* key) const {
    const std::vector<int64_t> all = ids(key);
    if (all.size() > 1) fail("{}: {}: expected one token id, found {}", where_, key, all.size());
    return all.empty() ? std::nullopt : std::optional(all[0]);
  }
  /// A nested object, where there is one.
  std::optional<Fields> nested(const char* key) const {
    if (!find(key)) return std::nullopt;
    return Fields(json_object(object_, key, where_), where_ + ": " + key);
  }

 private:
  const Json& object_;
  std::string where_;
};

std::vector<int64_t> Fields::ids(const char* key) const {
  const Json* v = find(key);
  if (!v) return {};
  std::vector<int64_t> result;
  for (const Json& id : v->is_array() ? *v : Json::array({*v})) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > static_cast<uint64_t>(kMaxInt))
      fail("{}: {}: expected token ids from 0 to {}, found {}", where_, key, kMaxInt, json_excerpt(*v));
    result.push_back(id.get<int64_t>());
  }
  return result;
}

std::string parse_model_type(const Fields& f) {
  if (!f.find("model_type")) {
    // Old files name only the class.
    const Json* a = f.find("architectures");
    if (a && *a == Json::array({"DeepseekV3ForCausalLM"})) return "deepseek_v3";
    if (a && *a == Json::array({"DeepseekV2ForCausalLM"})) return "deepseek_v2";
    fail("{}: model_type: expected deepseek_v3 or deepseek_v2, found nothing", f.where());
  }
  const std::string type = f.choice("model_type", {"deepseek_v3", "deepseek_v2", "kimi_k2"}, "");
  return type == "kimi_k2" ? "deepseek_v3" : type;
}

/// What would change the model's function and is not supported.
void reject_unsupported(const Fields& f) {
  for (const char* key : {"attention_bias", "mlp_bias", "tie_word_embeddings"})
    if (f.boolean(key, false)) fail("{}: {}: expected false, found true (not supported)", f.where(), key);
  if (!f.boolean("rope_interleave", true))
    fail("{}: rope_interleave: expected true, found false (half-split RoPE rows are not supported)", f.where());
  f.choice("hidden_act", {"silu"}, "silu");
}

void parse_sizes(const Fields& f, HfConfig& c) {
  c.vocab_size = f.size("vocab_size");
  c.hidden_size = f.size("hidden_size");
  c.intermediate_size = f.size("intermediate_size");
  c.num_hidden_layers = f.integer("num_hidden_layers", 1, 4096);
  c.first_k_dense_replace = f.integer("first_k_dense_replace", 0, kMaxInt, 0);
  c.moe_layer_freq = f.integer("moe_layer_freq", 1, kMaxInt, 1);
  c.num_attention_heads = f.size("num_attention_heads");
  c.num_key_value_heads = f.integer("num_key_value_heads", 1, kMaxInt, c.num_attention_heads);
  if (!f.has_key("q_lora_rank")) fail("{}: q_lora_rank: expected an integer or null, found nothing", f.where());
  c.q_lora_rank = f.integer("q_lora_rank", 0, kMaxInt, 0);
  c.kv_lora_rank = f.size("kv_lora_rank");
  c.qk_nope_head_dim = f.size("qk_nope_head_dim");
  c.qk_rope_head_dim = f.size("qk_rope_head_dim");
  if (c.qk_rope_head_dim % 2 != 0)
    fail("{}: qk_rope_head_dim: expected an even number, found {}", f.where(), c.qk_rope_head_dim);
  c.v_head_dim = f.size("v_head_dim");
  c.max_position_embeddings = f.size("max_position_embeddings");
  c.num_nextn_predict_layers = f.integer("num_nextn_predict_layers", 0, 64, 0);
  c.rms_norm_eps = f.number("rms_norm_eps", 1e-30, 1, 1e-6);
  c.initializer_range = f.number("initializer_range", 0, 1000, 0.02);
  c.bos_token_id = f.id("bos_token_id");
  c.eos_token_id = f.ids("eos_token_id");
  c.pad_token_id = f.id("pad_token_id");
  c.torch_dtype = f.text("torch_dtype", f.text("dtype", ""));
}

void parse_experts(const Fields& f, HfConfig& c) {
  const bool v3 = c.model_type == "deepseek_v3";
  c.topk_method = f.choice("topk_method", {"noaux_tc", "greedy", "group_limited_greedy"}, v3 ? "noaux_tc" : "greedy");
  c.scoring_func = f.choice("scoring_func", {"sigmoid", "softmax"}, v3 ? "sigmoid" : "softmax");
  if ((c.topk_method == "noaux_tc") != (c.scoring_func == "sigmoid"))
    fail("{}: scoring_func: expected {} (topk_method {}), found {}", f.where(),
         c.topk_method == "noaux_tc" ? "sigmoid" : "softmax", c.topk_method, c.scoring_func);
  c.norm_topk_prob = f.boolean("norm_topk_prob", v3);
  c.routed_scaling_factor = f.number("routed_scaling_factor", 1e-6, 1e6, v3 ? 2.5 : 1.0);
  if (!f.has_key("n_routed_experts"))
    fail("{}: n_routed_experts: expected an integer or null, found nothing", f.where());
  c.n_routed_experts = f.integer("n_routed_experts", 0, 65536, 0);
  if (c.n_routed_experts == 0) return;
  c.moe_intermediate_size = f.size("moe_intermediate_size");
  c.n_shared_experts = f.integer("n_shared_experts", 0, 65536, 0);
  c.n_group = f.integer("n_group", 1, c.n_routed_experts, 1);
  if (c.n_routed_experts % c.n_group != 0)
    fail("{}: n_group: expected a divisor of n_routed_experts {}, found {}", f.where(), c.n_routed_experts, c.n_group);
  const int64_t in_group = c.n_routed_experts / c.n_group;
  if (c.n_group > 1 && in_group < 2 && c.topk_method == "noaux_tc")
    fail("{}: n_group: expected at least 2 experts in a group (noaux_tc adds the best two), found 1", f.where());
  c.topk_group = f.integer("topk_group", 1, c.n_group, c.n_group);
  c.num_experts_per_tok = f.integer("num_experts_per_tok", 1, c.topk_group * in_group);
}

HfYarn parse_yarn(const Fields& f) {
  if (f.find("attention_factor")) fail("{}: attention_factor: expected nothing (not supported)", f.where());
  if (!f.boolean("truncate", true)) fail("{}: truncate: expected true, found false (not supported)", f.where());
  HfYarn y;
  if (!f.find("factor")) fail("{}: factor: expected a number, found nothing", f.where());
  y.factor = f.number("factor", 1, 1e6, 1);
  y.beta_fast = f.number("beta_fast", 1e-3, 1e6, 32);
  y.beta_slow = f.number("beta_slow", 1e-3, 1e6, 1);
  if (y.beta_fast < y.beta_slow)
    fail("{}: beta_fast: expected at least beta_slow {}, found {}", f.where(), y.beta_slow, y.beta_fast);
  y.mscale = f.number("mscale", 0, 100, 1);
  y.mscale_all_dim = f.number("mscale_all_dim", 0, 100, 0);
  y.original_max_position_embeddings = f.size("original_max_position_embeddings");
  return y;
}

/// `rope_theta` and `rope_scaling`, or `rope_parameters`, which holds both.
void parse_rope(const Fields& f, HfConfig& c) {
  c.rope_theta = f.number("rope_theta", 1.001, 1e12, 10000);
  const auto parameters = f.nested("rope_parameters");
  const auto scaling = f.nested("rope_scaling");
  if (parameters && scaling) fail("{}: expected rope_parameters or rope_scaling, found both", f.where());
  if (!parameters && !scaling) return;
  const Fields& r = parameters ? *parameters : *scaling;
  if (parameters) {
    const double theta = parameters->number("rope_theta", 1.001, 1e12, c.rope_theta);
    if (f.find("rope_theta") && theta != c.rope_theta)
      fail("{}: rope_theta: expected {} (as outside), found {}", r.where(), c.rope_theta, theta);
    c.rope_theta = theta;
  }
  const std::string type = r.choice("rope_type", {"yarn", "default"}, r.text("type", "default").c_str());
  if (r.text("type", type) != type)
    fail("{}: type: expected {} (as rope_type), found {}", r.where(), type, json_excerpt(r.text("type", "")));
  if (type == "yarn") c.yarn = parse_yarn(r);
}

void parse_quantization(const Fields& f, HfConfig& c) {
  const auto q = f.nested("quantization_config");
  if (!q) return;
  q->choice("quant_method", {"fp8"}, "");
  q->choice("fmt", {"e4m3"}, "e4m3");
  q->choice("activation_scheme", {"dynamic"}, "dynamic");
  HfQuantization result;
  result.scale_fmt = q->choice("scale_fmt", {"", "ue8m0"}, "");
  const Json* block = q->find("weight_block_size");
  const auto is_size = [](const Json& v) {
    return v.is_number_unsigned() && v.get<uint64_t>() >= 1 && v.get<uint64_t>() <= 65536;
  };
  if (!block || !block->is_array() || block->size() != 2 || !is_size((*block)[0]) || !is_size((*block)[1]))
    fail("{}: weight_block_size: expected two integers from 1 to 65536, found {}", q->where(),
         block ? json_excerpt(*block) : "nothing");
  result.block_rows = (*block)[0].get<int64_t>();
  result.block_cols = (*block)[1].get<int64_t>();
  c.quantization = result;
}

/// Every dimension of a tensor fits an int32, the number of parameters 60 bits, and nobody has to list millions of
/// tensors of a made-up model.
void check_products(const HfConfig& c, const std::string& where) {
  const auto bounded = [&](const char* what, __int128 value) {
    if (value > kMaxInt) fail("{}: {}: expected a product below 2^31", where, what);
  };
  const __int128 heads = c.num_attention_heads;
  bounded("num_attention_heads x (qk_nope_head_dim + qk_rope_head_dim)",
          heads * (c.qk_nope_head_dim + c.qk_rope_head_dim));
  bounded("num_attention_heads x (qk_nope_head_dim + v_head_dim)", heads * (c.qk_nope_head_dim + c.v_head_dim));
  bounded("kv_lora_rank + qk_rope_head_dim", c.kv_lora_rank + c.qk_rope_head_dim);
  bounded("n_shared_experts x moe_intermediate_size", __int128{c.n_shared_experts} * c.moe_intermediate_size);
  if (c.num_hidden_layers * c.n_routed_experts > (1 << 20))
    fail("{}: num_hidden_layers x n_routed_experts: expected at most {}, found {}", where, 1 << 20,
         c.num_hidden_layers * c.n_routed_experts);
  // An upper bound is enough, and double cannot overflow here.
  const double d = static_cast<double>(c.hidden_size), h = static_cast<double>(heads);
  const double qk = static_cast<double>(c.qk_nope_head_dim + c.qk_rope_head_dim);
  const double rank = static_cast<double>(c.q_lora_rank + c.kv_lora_rank + c.qk_rope_head_dim);
  const double kv = static_cast<double>(c.kv_lora_rank), v = static_cast<double>(c.v_head_dim);
  const double nope = static_cast<double>(c.qk_nope_head_dim);
  const double attention = d * rank + h * qk * (d + rank) + h * (nope + v) * kv + h * v * d;
  const double experts = static_cast<double>(c.n_routed_experts + c.n_shared_experts);
  const double ffn =
      3 * d * (static_cast<double>(c.intermediate_size) + experts * static_cast<double>(c.moe_intermediate_size));
  const double layers = static_cast<double>(c.num_hidden_layers + c.num_nextn_predict_layers);
  const double total =
      layers * (attention + ffn + 2 * d * d + experts * d) + 2 * (1 + layers) * d * static_cast<double>(c.vocab_size);
  if (total >= 0x1p60) fail("{}: hidden_size and others: expected fewer than 2^60 parameters", where);
}

Json parse_file(std::string_view json, const std::string& file) {
  if (json.size() > kMaxFileBytes) fail("{}: expected at most {} bytes, found {}", file, kMaxFileBytes, json.size());
  return parse_json_object(json, file);
}

OrderedJson ids_json(const std::vector<int64_t>& ids) {
  if (ids.empty()) return nullptr;
  return ids.size() == 1 ? OrderedJson(ids[0]) : OrderedJson(ids);
}

OrderedJson id_json(const std::optional<int64_t>& id) { return id ? OrderedJson(*id) : OrderedJson(nullptr); }
/// Sizes for which 0 is written as null.
OrderedJson size_json(int64_t size) { return size ? OrderedJson(size) : OrderedJson(nullptr); }

OrderedJson rope_scaling_json(const HfConfig& c) {
  if (!c.yarn) return nullptr;
  return {{"type", "yarn"},
          {"factor", c.yarn->factor},
          {"beta_fast", c.yarn->beta_fast},
          {"beta_slow", c.yarn->beta_slow},
          {"mscale", c.yarn->mscale},
          {"mscale_all_dim", c.yarn->mscale_all_dim},
          {"original_max_position_embeddings", c.yarn->original_max_position_embeddings}};
}

void write_experts(OrderedJson& j, const HfConfig& c) {
  j["n_routed_experts"] = size_json(c.n_routed_experts);
  j["n_shared_experts"] = size_json(c.n_shared_experts);
  j["moe_intermediate_size"] = size_json(c.moe_intermediate_size);
  j["num_experts_per_tok"] = size_json(c.num_experts_per_tok);
  j["n_group"] = c.n_group;
  j["topk_group"] = c.topk_group;
  j["scoring_func"] = c.scoring_func;
  j["topk_method"] = c.topk_method;
  j["norm_topk_prob"] = c.norm_topk_prob;
  j["routed_scaling_factor"] = c.routed_scaling_factor;
}

}  // namespace

HfConfig parse_hf_config(std::string_view json, const std::string& file) {
  const Json root = parse_file(json, file);
  const Fields f(root, file);
  HfConfig c;
  c.model_type = parse_model_type(f);
  reject_unsupported(f);
  parse_sizes(f, c);
  parse_experts(f, c);
  parse_rope(f, c);
  parse_quantization(f, c);
  check_products(c, file);
  return c;
}

std::string write_hf_config(const HfConfig& c) {
  const bool v3 = c.model_type == "deepseek_v3";
  OrderedJson j;
  j["architectures"] = {v3 ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM"};
  j["model_type"] = c.model_type;
  j["attention_bias"] = false;
  j["attention_dropout"] = 0.0;
  j["bos_token_id"] = id_json(c.bos_token_id);
  j["eos_token_id"] = ids_json(c.eos_token_id);
  j["pad_token_id"] = id_json(c.pad_token_id);
  j["vocab_size"] = c.vocab_size;
  j["hidden_size"] = c.hidden_size;
  j["hidden_act"] = "silu";
  j["intermediate_size"] = c.intermediate_size;
  j["num_hidden_layers"] = c.num_hidden_layers;
  j["first_k_dense_replace"] = c.first_k_dense_replace;
  j["moe_layer_freq"] = c.moe_layer_freq;
  write_experts(j, c);
  j["num_attention_heads"] = c.num_attention_heads;
  j["num_key_value_heads"] = c.num_key_value_heads;
  j["q_lora_rank"] = size_json(c.q_lora_rank);
  j["kv_lora_rank"] = c.kv_lora_rank;
  j["qk_nope_head_dim"] = c.qk_nope_head_dim;
  j["qk_rope_head_dim"] = c.qk_rope_head_dim;
  j["v_head_dim"] = c.v_head_dim;
  j["rope_theta"] = c.rope_theta;
  j["rope_scaling"] = rope_scaling_json(c);
  if (v3) j["rope_interleave"] = true;
  j["max_position_embeddings"] = c.max_position_embeddings;
  j["rms_norm_eps"] = c.rms_norm_eps;
  j["num_nextn_predict_layers"] = c.num_nextn_predict_layers;
  j["initializer_range"] = c.initializer_range;
  j["tie_word_embeddings"] = false;
  j["torch_dtype"] = c.torch_dtype.empty() ? OrderedJson(nullptr) : OrderedJson(c.torch_dtype);
  j["use_cache"] = true;
  if (c.quantization) {
    OrderedJson q = {{"activation_scheme", "dynamic"}, {"fmt", "e4m3"}, {"quant_method", "fp8"}};
    if (!c.quantization->scale_fmt.empty()) q["scale_fmt"] = c.quantization->scale_fmt;
    q["weight_block_size"] = {c.quantization->block_rows, c.quantization->block_cols};
    j["quantization_config"] = q;
  }
  return j.dump(2) + "\n";
}

HfGeneration parse_hf_generation(std::string_view json, const std::string& file) {
  const Json root = parse_file(json, file);
  const Fields f(root, file);
  HfGeneration g;
  g.bos_token_id = f.id("bos_token_id");
  g.eos_token_id = f.ids("eos_token_id");
  if (f.find("temperature")) g.temperature = f.number("temperature", 0, 1000, 1);
  if (f.find("top_p")) g.top_p = f.number("top_p", 1e-9, 1, 1);
  if (f.find("min_p")) g.min_p = f.number("min_p", 0, 1, 0);
  if (f.find("repetition_penalty")) g.repetition_penalty = f.number("repetition_penalty", 1e-3, 1e3, 1);
  return g;
}

std::string write_hf_generation(const HfGeneration& g) {
  OrderedJson j;
  j["bos_token_id"] = id_json(g.bos_token_id);
  j["eos_token_id"] = ids_json(g.eos_token_id);
  if (g.temperature.value_or(0) > 0) j["do_sample"] = true;
  if (g.temperature) j["temperature"] = *g.temperature;
  if (g.top_p) j["top_p"] = *g.top_p;
  if (g.min_p) j["min_p"] = *g.min_p;
  if (g.repetition_penalty) j["repetition_penalty"] = *g.repetition_penalty;
  return j.dump(2) + "\n";
}

}  // namespace sluice
