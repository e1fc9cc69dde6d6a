#include "train/config.h"

#include "parallel/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/device.h"
#include "base/error.h"

namespace sluice {
namespace {

std::string yaml_string(const std::string& s) {
  std::string out = "\"";
  for (const char c : s) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
  return out + '"';
}

std::string yaml_value(const std::string& v) { return yaml_string(v); }
std::string yaml_value(bool v) { return v ? "true" : "false"; }
std::string yaml_value(int64_t v) { return fmt::format("{}", v); }
std::string yaml_value(double v) { return fmt::format("{}", v); }
std::string yaml_value(const std::vector<std::string>& v) {
  std::vector<std::string> items;
  for (const std::string& s : v) items.push_back(yaml_string(s));
  return fmt::format("[{}]", fmt::join(items, ", "));
}

void expect(bool ok, const char* key, const char* expected, const std::string& found) {
  if (!ok) fail("{}: expected {}, found {}", key, expected, found.empty() ? "nothing" : found);
}

void expect_share(double value, const char* key) {
  expect(value >= 0 && value <= 1, key, "a number from 0 to 1", fmt::format("{}", value));
}

void expect_positive(double value, const char* key) {
  expect(std::isfinite(value) && value > 0, key, "a number above 0", fmt::format("{}", value));
}

void expect_not_negative(double value, const char* key) {
  expect(std::isfinite(value) && value >= 0, key, "a number of at least 0", fmt::format("{}", value));
}

/// How ranks share the model.
void check_layout(const TrainConfig& c) {
  parse_schedule(c.schedule);
  expect(c.pipeline_parallel <= 4096, "pipeline_parallel", "an integer up to 4096",
         fmt::format("{}", c.pipeline_parallel));
  expect(c.expert_parallel <= (1 << 20), "expert_parallel", "an integer up to 2^20",
         fmt::format("{}", c.expert_parallel));
  expect(c.dispatch_payload == "same" || c.dispatch_payload == "fp8", "dispatch_payload", "same or fp8",
         c.dispatch_payload);
  expect(c.combine_payload == "same" || c.combine_payload == "bf16", "combine_payload", "same or bf16",
         c.combine_payload);
  expect_positive(c.expert_capacity, "expert_capacity");
  expect(c.expert_capacity <= 1e6, "expert_capacity", "a number up to 1e6", fmt::format("{}", c.expert_capacity));
}

}  // namespace

std::string format_config(const TrainConfig& config) {
  std::string out;
  TrainConfig copy = config;
  copy.visit([&](const char* name, const auto& value) { out += fmt::format("{}: {}\n", name, yaml_value(value)); });
  return out;
}

void check_config(const TrainConfig& c) {
  expect(!c.data.empty(), "data", "at least one text file", "");
  expect(!c.out.empty(), "out", "a folder for the run", "");
  parse_duration(c.time);
  parse_precision(c.precision);
  parse_device(c.device);
  expect_share(c.fim_rate, "fim_rate");
  expect(c.eval_fraction >= 0 && c.eval_fraction < 1, "eval_fraction", "a number from 0 to below 1",
         fmt::format("{}", c.eval_fraction));
  for (const auto& [value, key] : {std::pair{c.seq_len, "seq_len"},
                                   {c.batch_size, "batch_size"},
                                   {c.micro_batch, "micro_batch"},
                                   {c.expert_parallel, "expert_parallel"},
                                   {c.pipeline_parallel, "pipeline_parallel"},
                                   {c.vocab_size, "vocab_size"}})
    expect(value >= 1 && value < (int64_t{1} << 31), key, "an integer from 1", fmt::format("{}", value));
  for (const auto& [value, key] : {std::pair{c.steps, "steps"},
                                   {c.threads, "threads"},
                                   {c.batch_start, "batch_start"},
                                   {c.warmup_steps, "warmup_steps"},
                                   {c.eval_every, "eval_every"},
                                   {c.eval_tokens, "eval_tokens"},
                                   {c.save_every, "save_every"},
                                   {c.keep_last, "keep_last"},
                                   {c.sample_every, "sample_every"}})
    expect(value >= 0, key, "an integer from 0", fmt::format("{}", value));
  expect(!c.time.empty() || c.steps > 0, "steps", "a number of steps or a time budget (time)", "");
  check_layout(c);
  expect(c.threads <= 1024, "threads", "an integer up to 1024", fmt::format("{}", c.threads));
  expect(c.seq_len < (int64_t{1} << 24), "seq_len", "an integer below 2^24", fmt::format("{}", c.seq_len));
  expect(std::min(c.micro_batch, c.batch_size) * (c.seq_len + 1) < (int64_t{1} << 28), "micro_batch",
         "micro_batch x seq_len below 2^28 tokens", fmt::format("{} x {}", c.micro_batch, c.seq_len));
  expect(c.mtp_modules <= 64, "mtp_modules", "an integer up to 64", fmt::format("{}", c.mtp_modules));
  expect(c.mtp_modules >= 0 && c.mtp_modules < c.seq_len, "mtp_modules", "an integer from 0, below seq_len",
         fmt::format("{}", c.mtp_modules));
  expect(c.batch_start <= c.batch_size, "batch_start", "at most batch_size", fmt::format("{}", c.batch_start));
  const TrainConfig defaults;
  const bool own_shape = c.size != defaults.size || !c.model.empty() || c.mtp_modules != defaults.mtp_modules;
  expect(c.init_from.empty() || !own_shape, "init_from",
         "no size, model or mtp_modules beside it (the checkpoint's hold)", c.init_from);
  expect_positive(c.lr, "lr");
  expect_positive(c.eps, "eps");
  for (const auto& [value, key] : {std::pair{c.weight_decay, "weight_decay"},
                                   {c.clip_norm, "clip_norm"},
                                   {c.bias_speed, "bias_speed"},
                                   {c.balance_alpha, "balance_alpha"},
                                   {c.mtp_weight, "mtp_weight"},
                                   {c.mtp_weight_late, "mtp_weight_late"}})
    expect_not_negative(value, key);
  for (const auto& [value, key] : {std::pair{c.lr_min, "lr_min"},
                                   {c.decay_start, "decay_start"},
                                   {c.bias_stop, "bias_stop"},
                                   {c.mtp_switch, "mtp_switch"},
                                   {c.batch_ramp, "batch_ramp"}})
    expect_share(value, key);
  for (const auto& [value, key] : {std::pair{c.beta1, "beta1"}, {c.beta2, "beta2"}, {c.ema_decay, "ema_decay"}})
    expect(value >= 0 && value < 1, key, "a number from 0 to below 1", fmt::format("{}", value));
}

double parse_duration(const std::string& text) {
  if (text.empty()) return 0;
  size_t used = 0;
  double value = -1;
  try {
    value = std::stod(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  const std::string unit = text.substr(used);
  const double factor = unit.empty() || unit == "s" ? 1
                        : unit == "m"               ? 60
                        : unit == "h"               ? 3600
                        : unit == "d"               ? 86400
                                                    : 0;
  constexpr double kLongest = 1e9;  // three decades
  if (used == 0 || factor == 0 || !(value > 0) || !(value * factor <= kLongest))
    fail("time: expected a duration such as 90s, 30m or 2h, found {}", text);
  return value * factor;
}

Precision parse_precision(const std::string& text) {
  if (text == "f32") return Precision::f32;
  if (text == "bf16") return Precision::bf16;
  if (text == "fp8") return Precision::fp8;
  fail("precision: expected f32, bf16 or fp8, found {}", text);
}

HfConfig builtin_model(const std::string& size, int64_t vocab_size, int64_t seq_len) {
  struct Shape {
    const char* name;
    int64_t hidden, layers, heads, experts, top_k, expert_width, dense_width, kv_rank, head_dim, rope_dim;
  };
  static constexpr Shape kShapes[] = {
      {"tiny", 192, 4, 4, 16, 2, 128, 512, 64, 32, 16},
      {"small", 384, 6, 6, 32, 4, 192, 1024, 128, 48, 16},
      {"medium", 768, 12, 12, 64, 6, 256, 2048, 256, 64, 32},
  };
  for (const Shape& s : kShapes) {
    if (size != s.name) continue;
    HfConfig c;
    c.vocab_size = vocab_size;
    c.hidden_size = s.hidden;
    c.num_hidden_layers = s.layers;
    c.num_attention_heads = c.num_key_value_heads = s.heads;
    c.first_k_dense_replace = 1;
    c.intermediate_size = s.dense_width;
    c.moe_intermediate_size = s.expert_width;
    c.n_routed_experts = s.experts;
    c.num_experts_per_tok = s.top_k;
    c.n_shared_experts = 1;
    c.n_group = c.topk_group = 1;
    c.kv_lora_rank = s.kv_rank;
    c.qk_nope_head_dim = c.v_head_dim = s.head_dim;
    c.qk_rope_head_dim = s.rope_dim;
    c.routed_scaling_factor = 2.5;
    c.initializer_range = 0.02;
    c.max_position_embeddings = std::max<int64_t>(seq_len, 2048);
    c.bos_token_id = 0;
    c.eos_token_id = {1};
    return c;
  }
  fail("size: expected tiny, small or medium, found {}", size);
}

StepSchedule schedule_at(const TrainConfig& c, int64_t step, double progress) {
  StepSchedule s;
  double factor = 1;
  if (progress > c.decay_start && c.decay_start < 1) {
    const double p = std::min((progress - c.decay_start) / (1 - c.decay_start), 1.0);
    factor = c.lr_min + (1 - c.lr_min) * 0.5 * (1 + std::cos(std::numbers::pi * p));
  }
  if (step <= c.warmup_steps)
    factor = std::min(factor, static_cast<double>(step) / static_cast<double>(c.warmup_steps));
  s.lr = static_cast<float>(c.lr * factor);
  s.mtp_weight = static_cast<float>(progress < c.mtp_switch ? c.mtp_weight : c.mtp_weight_late);
  s.bias_speed = progress < c.bias_stop ? static_cast<float>(c.bias_speed) : 0.0f;
  s.batch_size = c.batch_size;
  if (c.batch_start > 0 && progress < c.batch_ramp)
    s.batch_size = c.batch_start +
                   static_cast<int64_t>(static_cast<double>(c.batch_size - c.batch_start) * progress / c.batch_ramp);
  return s;
}

}  // namespace sluice
