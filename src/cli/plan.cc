// sluice plan: memory, time and cost of training a model on a cluster, before anything is rented.
#include "plan/plan.h"

#include <memory>
#include <optional>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/yaml_config.h"
#include "formats/json_lines.h"
#include "model/size.h"

namespace sluice {
namespace {

struct PlanOptions {
  std::string config, cluster, tokens, trace, svg;
  std::vector<std::string> pairs;
  bool json = false;
};

/// GPU-hours of one part of the run.
struct CostLine {
  std::string what;
  double gpu_hours;
};

struct Report {
  HfConfig model;
  ClusterConfig cluster;
  double tokens = 0;
  Plan plan;
  std::vector<CostLine> costs = {};  // pre-training first
  double gpu_hours() const {
    double sum = 0;
    for (const CostLine& c : costs) sum += c.gpu_hours;
    return sum;
  }
};

ClusterConfig read_cluster(const PlanOptions& o) {
  ClusterConfig cluster;
  read_yaml(cluster, o.cluster);
  for (const std::string& pair : o.pairs) set_pair(cluster, pair);
  try {
    check_cluster(cluster);
  } catch (const Error& e) {
    fail("{}: {}", o.cluster, e.what());
  }
  return cluster;
}

Measurements read_measurements(const PlanOptions& o, const ClusterConfig& cluster) {
  if (cluster.measurements.empty()) return {};
  const fs::path file = fs::path(o.cluster).parent_path() / cluster.measurements;
  return parse_measurements(read_file(file), file.string());
}

Report make_report(const PlanOptions& o) {
  const HfConfig model = parse_hf_config(read_file(o.config), o.config);
  const ClusterConfig cluster = read_cluster(o);
  const Measurements measured = read_measurements(o, cluster);
  const Rates rates(cluster, measured);
  const double tokens = parse_tokens(o.tokens);
  Report r{model, cluster, tokens, plan_training(model, cluster, rates, {cluster.seq_len, cluster.batch_size})};
  r.costs.push_back({"pre-training", r.plan.gpu_hours(cluster, tokens)});
  for (const std::string& text : cluster.context_extension) {
    const ExtensionPhase phase = parse_extension(text);
    const Plan plan = plan_training(model, cluster, rates, {phase.seq_len, phase.batch_size});
    const double phase_tokens = plan.tokens_per_step * static_cast<double>(phase.steps);
    r.costs.push_back({fmt::format("context of {}", phase.seq_len), plan.gpu_hours(cluster, phase_tokens)});
  }
  if (cluster.post_training_gpu_hours > 0) r.costs.push_back({"post-training", cluster.post_training_gpu_hours});
  return r;
}

using Causes = std::vector<std::pair<const char*, double>>;

Causes causes_of(const StepTime& t) {
  return {{"products", t.products},
          {"attention", t.attention},
          {"moving memory", t.elementwise},
          {"multiprocessors kept for transfers", t.kept_sms},
          {"exposed communication", t.exposed},
          {"uneven stages", t.uneven},
          {"pipeline bubble", t.bubble},
          {"gradients and weights of data ranks", t.gradients},
          {"optimizer", t.optimizer}};
}

Causes kinds_of(const MemoryPlan& m) {
  return {{"weights", m.weights},         {"gradients", m.gradients}, {"masters", m.masters}, {"moments", m.moments},
          {"activations", m.activations}, {"workspace", m.workspace}, {"buffers", m.buffers}};
}

/// "671.03B", "8.22M".
std::string count_text(double n) {
  return n >= 1e9 ? fmt::format("{:.2f}B", 1e-9 * n) : fmt::format("{:.2f}M", 1e-6 * n);
}

double flops_per_gpu(const Report& r) { return r.plan.flops_per_token * r.plan.tokens_per_gpu_second(r.cluster); }

void print_plan(const Report& r) {
  const ModelSize size = model_size(r.model, r.model.num_nextn_predict_layers);
  const Layout& l = r.plan.layout;
  fmt::print("model    {} parameters and {} of MTP modules, {:.3g} GFLOP per token\n",
             count_text(static_cast<double>(size.main)), count_text(static_cast<double>(size.mtp)),
             1e-9 * r.plan.flops_per_token);
  fmt::print("layout   pipeline {} ({}), data {}, expert {}; {} micro-batches of {} tokens on a GPU{}\n",
             l.pipeline.ranks(), schedule_name(l.pipeline.schedule()), l.data, l.expert, l.pipeline.micros(),
             l.micro_tokens, has_open_layout(r.cluster) ? " (the fastest found)" : "");
  fmt::print("stages   {} layers\n", fmt::join(l.layers, " "));
  fmt::print("memory   {:.1f} GB of {:.0f} on the fullest GPU:", 1e-9 * r.plan.memory.total(), r.cluster.gpu_memory_gb);
  const char* separator = " ";
  for (const auto& [kind, bytes] : kinds_of(r.plan.memory)) {
    fmt::print("{}{} {:.1f}", separator, kind, 1e-9 * bytes);
    separator = ", ";
  }
  const double flops = 1e-12 * flops_per_gpu(r);
  fmt::print("\nspeed    {:.0f} tokens/s per GPU, {:.0f} TFLOP/s: {:.1f}% of the FP8 peak, {:.1f}% of the BF16 peak\n",
             r.plan.tokens_per_gpu_second(r.cluster), flops, 100 * flops / r.cluster.peak_fp8_tflops,
             100 * flops / r.cluster.peak_bf16_tflops);
}

/// Seconds of a step, and GPU-hours of pre-training, by cause.
void print_causes(const Report& r) {
  const double total = r.plan.step.total(), hours = r.costs[0].gpu_hours;
  fmt::print("step     {:.3f} s of {:.1f}M tokens\n", total, 1e-6 * r.plan.tokens_per_step);
  for (const auto& [cause, seconds] : causes_of(r.plan.step))
    fmt::print("  {:<36} {:>8.3f} s {:>6.1f}% {:>10.0f} GPU-hours\n", cause, seconds, 100 * seconds / total,
               hours * seconds / total);
  if (r.cluster.published_gpu_hours == 0) return;
  const double residual = r.cluster.published_gpu_hours - hours;
  fmt::print("  {:<36} {:>8.3f} s {:>6.1f}% {:>10.0f} GPU-hours\n", "published, and not explained",
             total * residual / hours, 100 * residual / hours, residual);
}

void print_cost(const Report& r) {
  const double gpus = static_cast<double>(r.cluster.gpus), dollars = r.cluster.dollars_per_gpu_hour;
  for (const CostLine& c : r.costs)
    fmt::print("{:<18} {:>10.0f} GPU-hours {:>7.1f} days {:>9.3f}M dollars\n", c.what, c.gpu_hours,
               c.gpu_hours / gpus / 24, 1e-6 * dollars * c.gpu_hours);
  fmt::print("{:<18} {:>10.0f} GPU-hours {:>7.1f} days {:>9.3f}M dollars\n", "total", r.gpu_hours(),
             r.gpu_hours() / gpus / 24, 1e-6 * dollars * r.gpu_hours());
  fmt::print("a trillion tokens of pre-training: {:.1f}K GPU-hours\n", 1e-3 * r.plan.gpu_hours(r.cluster, 1e12));
}

/// "pipeline bubble" -> "pipeline_bubble".
std::string json_key(std::string name) {
  for (char& c : name)
    if (c == ' ' || c == '-') c = '_';
  return name;
}

JsonObject json_of(const Causes& causes) {
  JsonObject j;
  for (const auto& [name, value] : causes) j.add(json_key(name), value);
  return j;
}

void print_json(const Report& r) {
  const Layout& l = r.plan.layout;
  JsonObject layout, costs, j;
  layout.add("pipeline", l.pipeline.ranks()).add("schedule", schedule_name(l.pipeline.schedule())).add("data", l.data);
  layout.add("expert", l.expert).add("micro_tokens", l.micro_tokens).add("micro_batches", l.pipeline.micros());
  layout.add("layers", l.layers);
  for (const CostLine& c : r.costs) costs.add(json_key(c.what), c.gpu_hours);
  j.add("tokens", r.tokens).add("flops_per_token", r.plan.flops_per_token).add("layout", layout);
  j.add("memory_bytes", r.plan.memory.total()).add("memory", json_of(kinds_of(r.plan.memory)));
  j.add("step_seconds", r.plan.step.total()).add("step", json_of(causes_of(r.plan.step)));
  j.add("tokens_per_gpu_second", r.plan.tokens_per_gpu_second(r.cluster)).add("flops_per_gpu_second", flops_per_gpu(r));
  j.add("gpu_hours_per_trillion", r.plan.gpu_hours(r.cluster, 1e12)).add("gpu_hours", costs);
  j.add("total_gpu_hours", r.gpu_hours()).add("dollars", r.gpu_hours() * r.cluster.dollars_per_gpu_hour);
  if (r.cluster.published_gpu_hours > 0) j.add("published_gpu_hours", r.cluster.published_gpu_hours);
  fmt::print("{}\n", j.str());
}

void run_plan(const PlanOptions& o) {
  const Report r = make_report(o);
  if (!o.trace.empty()) write_file(o.trace, chrome_trace(r.plan.timeline));
  if (!o.svg.empty()) write_file(o.svg, timeline_svg(r.plan.timeline));
  if (o.json) return print_json(r);
  print_plan(r);
  print_causes(r);
  print_cost(r);
}

/// "key: value" of every field, as a help.
std::string cluster_keys() {
  std::string keys;
  ClusterConfig c;
  c.visit([&](const std::string& name, const auto& value) {
    if constexpr (std::is_arithmetic_v<std::remove_cvref_t<decltype(value)>>)
      keys += fmt::format("{}: {}\n", name, value);
    else
      keys += fmt::format("{}:\n", name);
  });
  return keys;
}

}  // namespace

void add_plan_command(CLI::App& app) {
  auto o = std::make_shared<PlanOptions>();
  CLI::App* c = app.add_subcommand("plan", "Memory, time and cost of training a model on a cluster");
  c->add_option("--config", o->config, "config.json of the model")->required();
  c->add_option("--cluster", o->cluster, "YAML file: machine, run and layout; what it leaves open is searched")
      ->required();
  c->add_option("--tokens", o->tokens, "to train on: 14.8T, 630B, 5M")->required();
  c->add_option("--trace", o->trace, "write a step's timeline for chrome://tracing or ui.perfetto.dev");
  c->add_option("--svg", o->svg, "write a step's timeline as a picture");
  c->add_flag("--json", o->json, "one JSON object");
  c->add_option("pairs", o->pairs, "key=value, as in the YAML file");
  c->footer("Keys and defaults of the YAML file (0 or nothing in the last four: searched):\n" + cluster_keys() +
            "\nExample: sluice plan --config configs/models/deepseek-v3-671b.json --cluster "
            "configs/clusters/h800-2048.yaml --tokens 14.8T schedule=zb1p");
  c->callback([o] { run_plan(*o); });
}

}  // namespace sluice
