#include "formats/metrics_json.h"

#include <limits>

#include "base/error.h"
#include "formats/json.h"
#include "formats/json_lines.h"

namespace sluice {
namespace {

constexpr size_t kMaxLoadValues = 65536;

/// Adds the field where it has a value.
void add_optional(JsonObject& object, const char* key, const std::optional<double>& value) {
  if (value) object.add(key, *value);
}

std::string format(const RunInfo& m) {
  return JsonObject()
      .add("kind", "run")
      .add("step", m.step)
      .add("total_steps", m.total_steps)
      .add("parameters", m.parameters)
      .add("active_parameters", m.active_parameters)
      .add("expert_layers", m.expert_layers)
      .add("config", m.config)
      .str();
}

std::string format(const StepMetrics& m) {
  JsonObject o;
  o.add("kind", "step").add("step", m.step).add("tokens", m.tokens).add("loss_main", m.loss_main);
  add_optional(o, "loss_mtp", m.loss_mtp);
  add_optional(o, "balance_loss", m.balance_loss);
  o.add("lr", m.lr).add("grad_norm", m.grad_norm).add("mtp_weight", m.mtp_weight).add("bias_speed", m.bias_speed);
  add_optional(o, "max_vio", m.max_vio);
  o.add("tokens_per_second", m.tokens_per_second).add("flops_per_second", m.flops_per_second);
  o.add("seconds", m.seconds);
  if (!m.expert_load.empty()) o.add("expert_load", m.expert_load);
  return o.str();
}

std::string format(const EvalMetrics& m) {
  JsonObject o;
  o.add("kind", "eval").add("step", m.step).add("name", m.name).add("loss", m.loss);
  o.add("bits_per_byte", m.bits_per_byte);
  add_optional(o, "mtp_acceptance", m.mtp_acceptance);
  add_optional(o, "max_vio", m.max_vio);
  return o.str();
}

std::string format(const TextSample& m) {
  return JsonObject().add("kind", "sample").add("step", m.step).add("prompt", m.prompt).add("text", m.text).str();
}

std::string format(const TrafficMetrics& m) {
  JsonObject o;
  o.add("kind", "traffic").add("step", m.step).add("steps", m.steps).add("tokens", m.tokens);
  o.add("experts", m.experts).add("stages", m.stages).add("gradients", m.gradients).add("weights", m.weights);
  return o.add("rest", m.rest).str();
}

/// One line as JSON and where it stands, for messages.
struct Source {
  Json object;
  const std::string& where;

  int64_t integer(const char* key) const {
    const uint64_t value = json_uint(object, key, where);
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      fail("{}: {}: expected an integer below 2^63, found {}", where, key, value);
    return static_cast<int64_t>(value);
  }

  std::optional<double> optional(const char* key) const {
    const auto it = object.find(key);
    if (it == object.end()) return std::nullopt;
    if (it->is_null()) return std::numeric_limits<double>::quiet_NaN();
    if (!it->is_number()) fail("{}: {}: expected a number or null, found {}", where, key, json_excerpt(*it));
    return it->get<double>();
  }

  double number(const char* key) const {
    const auto value = optional(key);
    if (!value) fail("{}: {}: expected a number, found nothing", where, key);
    return *value;
  }

  std::string string(const char* key) const { return json_string(object, key, where); }

  std::vector<std::string> strings(const char* key) const {
    const auto it = object.find(key);
    std::vector<std::string> out;
    if (it == object.end() || !it->is_array()) fail("{}: {}: expected an array of strings", where, key);
    for (const Json& value : *it) {
      if (!value.is_string()) fail("{}: {}: expected strings, found {}", where, key, json_excerpt(value));
      out.push_back(value.get<std::string>());
    }
    return out;
  }

  std::vector<std::vector<int64_t>> loads(const char* key) const {
    std::vector<std::vector<int64_t>> out;
    const auto it = object.find(key);
    if (it == object.end()) return out;
    if (!it->is_array()) fail("{}: {}: expected an array of arrays, found {}", where, key, json_excerpt(*it));
    size_t count = 0;
    for (const Json& layer : *it) {
      if (!layer.is_array()) fail("{}: {}: expected arrays of counts, found {}", where, key, json_excerpt(layer));
      count += layer.size();
      if (count > kMaxLoadValues) fail("{}: {}: expected at most {} values", where, key, kMaxLoadValues);
      std::vector<int64_t>& row = out.emplace_back();
      for (const Json& value : layer) {
        // 2^40 tokens in one step is beyond any batch, and sums of such counts do not overflow.
        if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{1} << 40)
          fail("{}: {}: expected counts from 0 to 2^40, found {}", where, key, json_excerpt(value));
        row.push_back(static_cast<int64_t>(value.get<uint64_t>()));
      }
    }
    return out;
  }
};

RunInfo read_run(const Source& s) {
  return {.step = s.integer("step"),
          .total_steps = s.integer("total_steps"),
          .parameters = s.integer("parameters"),
          .active_parameters = s.integer("active_parameters"),
          .expert_layers = s.strings("expert_layers"),
          .config = s.string("config")};
}

StepMetrics read_step(const Source& s) {
  return {.step = s.integer("step"),
          .tokens = s.integer("tokens"),
          .loss_main = s.number("loss_main"),
          .loss_mtp = s.optional("loss_mtp"),
          .balance_loss = s.optional("balance_loss"),
          .lr = s.number("lr"),
          .grad_norm = s.number("grad_norm"),
          .mtp_weight = s.number("mtp_weight"),
          .bias_speed = s.number("bias_speed"),
          .max_vio = s.optional("max_vio"),
          .tokens_per_second = s.number("tokens_per_second"),
          .flops_per_second = s.number("flops_per_second"),
          .seconds = s.number("seconds"),
          .expert_load = s.loads("expert_load")};
}

EvalMetrics read_eval(const Source& s) {
  return {.step = s.integer("step"),
          .name = s.string("name"),
          .loss = s.number("loss"),
          .bits_per_byte = s.number("bits_per_byte"),
          .mtp_acceptance = s.optional("mtp_acceptance"),
          .max_vio = s.optional("max_vio")};
}

TrafficMetrics read_traffic(const Source& s) {
  return {.step = s.integer("step"),
          .steps = s.integer("steps"),
          .tokens = s.integer("tokens"),
          .experts = s.integer("experts"),
          .stages = s.integer("stages"),
          .gradients = s.integer("gradients"),
          .weights = s.integer("weights"),
          .rest = s.integer("rest")};
}

}  // namespace

std::string format_metrics_line(const MetricsLine& line) {
  return std::visit([](const auto& m) { return format(m); }, line);
}

MetricsLine parse_metrics_line(std::string_view line, const std::string& where) {
  const Source s{parse_json_object(line, where), where};
  const std::string kind = s.string("kind");
  if (kind == "step") return read_step(s);
  if (kind == "eval") return read_eval(s);
  if (kind == "run") return read_run(s);
  if (kind == "traffic") return read_traffic(s);
  if (kind == "sample")
    return TextSample{.step = s.integer("step"), .prompt = s.string("prompt"), .text = s.string("text")};
  fail("{}: kind: expected run, step, eval, sample or traffic, found {}", where, json_excerpt(s.object["kind"]));
}

int64_t metrics_line_step(const MetricsLine& line) {
  return std::visit([](const auto& m) { return m.step; }, line);
}

}  // namespace sluice
