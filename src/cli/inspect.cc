// sluice inspect: what a checkpoint or a configuration is, without loading it.
#include <map>
#include <memory>
#include <string>

#include "base/error.h"
#include "cli/commands.h"
#include "convert/gguf_config.h"
#include "convert/gguf_rows.h"
#include "formats/json_lines.h"
#include "model/checkpoint.h"
#include "model/size.h"

namespace sluice {
namespace {

/// 1234567 -> "1,234,567".
std::string grouped(int64_t value) {
  std::string digits = fmt::format("{}", value);
  for (int64_t i = static_cast<int64_t>(digits.size()) - 3; i > 0; i -= 3) digits.insert(static_cast<size_t>(i), ",");
  return digits;
}

Precision announced_precision(const HfConfig& c) {
  return c.quantization ? Precision::fp8 : c.torch_dtype == "float32" ? Precision::f32 : Precision::bf16;
}

using BytesByType = std::map<std::string, int64_t>;

struct Inspection {
  HfConfig config;
  ModelSize size;
  int64_t mtp_modules = 0;
  BytesByType bytes;
};

BytesByType inspect_gguf(const fs::path& path, Inspection& r) {
  const GgufFile file(path);
  r.config = read_gguf_config(file.metadata());
  r.mtp_modules = stored_mtp_modules(file, r.config);
  BytesByType bytes;
  for (const GgufTensor& t : file.tensors())
    bytes[std::string(ggml_type_info(t.type).name)] += static_cast<int64_t>(t.bytes.size());
  return bytes;
}

BytesByType inspect_folder(const fs::path& path, Inspection& r) {
  const fs::path checkpoint = resolve_checkpoint(path);
  r.config = load_config(checkpoint);
  const SafetensorsFolder files(checkpoint);
  r.mtp_modules = stored_mtp_modules(files, r.config);
  BytesByType bytes;
  for (const SafetensorsEntry* e : files.entries())
    bytes[std::string(st_dtype_name(e->dtype))] += static_cast<int64_t>(e->bytes.size());
  return bytes;
}

/// The bytes that a checkpoint of this config.json would have.
BytesByType inspect_config(const fs::path& path, Inspection& r) {
  r.config = parse_hf_config(read_file(path), path.string());
  r.mtp_modules = r.config.num_nextn_predict_layers;
  const StoredBytes b = stored_bytes(r.config, r.mtp_modules, announced_precision(r.config));
  BytesByType bytes;
  for (const auto& [name, n] : {std::pair{"BF16", b.bf16}, {"F32", b.f32}, {"F8_E4M3", b.fp8}})
    if (n) bytes[name] = n;
  return bytes;
}

Inspection inspect(const fs::path& path) {
  Inspection r;
  const auto gguf = find_gguf(path);
  r.bytes = gguf ? inspect_gguf(*gguf, r) : fs::is_directory(path) ? inspect_folder(path, r) : inspect_config(path, r);
  r.size = model_size(r.config, r.mtp_modules);
  return r;
}

void print_shape(const HfConfig& c) {
  fmt::print("{}: {} layers ({} dense), hidden {}, {} heads ({} nope + {} rope, {} value), q rank {}, kv rank {}\n",
             c.model_type, c.num_hidden_layers, std::min(c.first_k_dense_replace, c.num_hidden_layers), c.hidden_size,
             c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim,
             c.q_lora_rank ? fmt::format("{}", c.q_lora_rank) : "none", c.kv_lora_rank);
  if (c.n_routed_experts)
    fmt::print("experts: {} routed of width {}, {} per token, {} shared; {} in {} of {} groups; {} router, factor {}\n",
               c.n_routed_experts, c.moe_intermediate_size, c.num_experts_per_tok, c.n_shared_experts,
               c.num_experts_per_tok, c.topk_group, c.n_group, c.scoring_func, c.routed_scaling_factor);
  fmt::print("vocabulary {}, context {}, RoPE base {}{}\n", c.vocab_size, c.max_position_embeddings, c.rope_theta,
             c.yarn ? fmt::format(", YaRN x{} of {}", c.yarn->factor, c.yarn->original_max_position_embeddings) : "");
}

void print_text(const Inspection& r) {
  print_shape(r.config);
  const ModelSize& s = r.size;
  fmt::print("parameters            {:>20}\n", grouped(s.main));
  if (r.mtp_modules) {
    fmt::print("  with MTP            {:>20}\n", grouped(s.main + s.mtp));
    fmt::print("  stored              {:>20}  (with the MTP copies of embedding and head)\n",
               grouped(s.main + s.mtp + s.mtp_copies));
  }
  fmt::print("active per token      {:>20}\n", grouped(s.active));
  fmt::print("  with the embedding  {:>20}\n", grouped(s.active_with_embedding));
  int64_t total = 0;
  for (const auto& [dtype, bytes] : r.bytes) {
    fmt::print("bytes {:<16}{:>20}\n", dtype, grouped(bytes));
    total += bytes;
  }
  fmt::print("bytes in all          {:>20}\n", grouped(total));
  fmt::print("KV cache per token    {:>20}  bytes in BF16\n", grouped(s.kv_bytes_per_token));
}

void print_json(const Inspection& r) {
  JsonObject bytes, o;
  for (const auto& [dtype, n] : r.bytes) bytes.add(dtype, n);
  o.add("model_type", r.config.model_type).add("parameters", r.size.main);
  o.add("parameters_with_mtp", r.size.main + r.size.mtp);
  o.add("parameters_stored", r.size.main + r.size.mtp + r.size.mtp_copies);
  o.add("active", r.size.active).add("active_with_embedding", r.size.active_with_embedding);
  o.add("mtp_modules", r.mtp_modules).add("bytes", bytes).add("kv_cache_bytes_per_token", r.size.kv_bytes_per_token);
  fmt::print("{}\n", o.str());
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  auto path = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  CLI::App* c = app.add_subcommand("inspect", "Print a model's shape, parameters and bytes without loading it");
  c->add_option("model", *path, "checkpoint folder, training run, GGUF file or config.json")->required();
  c->add_flag("--json", *json, "one JSON object");
  c->footer("Example: sluice inspect configs/models/deepseek-v3-671b.json");
  c->callback([path, json] {
    const Inspection r = inspect(*path);
    *json ? print_json(r) : print_text(r);
  });
}

}  // namespace sluice
