#include "plan/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "base/error.h"
#include "model/size.h"
#include "plan/step_time.h"

namespace sluice {
namespace {

constexpr int64_t kMostLayers = 512;
constexpr int64_t kMostActions = 1 << 17;  // micro-batches times ranks: what is simulated within a moment

/// What one layout is asked for; all fields set.
struct Choice {
  int64_t pipeline, expert, micro_tokens;
  Schedule schedule;
};

std::vector<int64_t> divisors(int64_t n, int64_t most) {
  std::vector<int64_t> list;
  for (int64_t d = 1; d <= std::min(n, most); ++d)
    if (n % d == 0) list.push_back(d);
  return list;
}

/// Throws Error where the sizes do not divide each other.
Layout make_layout(const HfConfig& c, const ClusterConfig& cluster, const StepShape& shape, const Choice& choice) {
  if (cluster.gpus % choice.pipeline != 0)
    fail("pipeline: expected a divisor of gpus ({}), found {}", cluster.gpus, choice.pipeline);
  const int64_t data = cluster.gpus / choice.pipeline, experts = std::max<int64_t>(c.n_routed_experts, 1);
  if (data % choice.expert != 0 || experts % choice.expert != 0)
    fail("expert: expected a divisor of gpus / pipeline ({}) and of the experts ({}), found {}", data, experts,
         choice.expert);
  if (choice.expert > cluster.gpus_per_node && choice.expert % cluster.gpus_per_node != 0)
    fail("expert: expected a multiple of gpus_per_node ({}), found {}", cluster.gpus_per_node, choice.expert);
  const int64_t tokens = shape.seq_len * shape.batch_size;
  if (tokens % (data * choice.micro_tokens) != 0)
    fail("micro_tokens: expected {} tokens of a step to be a multiple of {} data ranks x {}", tokens, data,
         choice.micro_tokens);
  if (shape.seq_len % choice.micro_tokens != 0 && choice.micro_tokens % shape.seq_len != 0)
    fail("micro_tokens: expected a multiple or a divisor of seq_len ({}), found {}", shape.seq_len,
         choice.micro_tokens);
  if (shape.seq_len / choice.micro_tokens > data)
    fail("micro_tokens: a sequence of {} would be spread over more than the {} data ranks", shape.seq_len, data);
  const int64_t micros = tokens / (data * choice.micro_tokens);
  if (micros > kMostActions / choice.pipeline)
    fail("micro_tokens: expected at most {} micro-batches of a step, found {}", kMostActions / choice.pipeline, micros);
  return {Pipeline(choice.schedule, static_cast<int>(choice.pipeline), static_cast<int>(micros)),
          data,
          choice.expert,
          choice.micro_tokens,
          {}};
}

/// Layout and memory; not yet the time.
Plan lay_out(const HfConfig& c, const ClusterConfig& cluster, const Rates& rates, const StepShape& shape,
             const Choice& choice) {
  Plan plan{.layout = make_layout(c, cluster, shape, choice)};
  plan.layout.layers = plan_stages(c, cluster, rates, plan.layout, shape);
  plan.memory = plan_memory(c, cluster, plan.layout);
  plan.tokens_per_step = static_cast<double>(shape.seq_len * shape.batch_size);
  plan.flops_per_token = training_flops_per_token(c, c.num_nextn_predict_layers, shape.seq_len);
  return plan;
}

/// All that the cluster leaves open.
std::vector<Choice> choices(const HfConfig& c, const ClusterConfig& cluster) {
  const auto given = [](int64_t value, std::vector<int64_t> all) {
    return value > 0 ? std::vector<int64_t>{value} : std::move(all);
  };
  std::vector<Choice> list;
  for (const int64_t pipeline : given(cluster.pipeline, divisors(cluster.gpus, c.num_hidden_layers)))
    for (const int64_t expert : given(cluster.expert, divisors(std::max<int64_t>(c.n_routed_experts, 1), cluster.gpus)))
      for (const int64_t micro_tokens : given(cluster.micro_tokens, {1024, 2048, 4096, 8192, 16384}))
        for (const Schedule schedule :
             cluster.schedule.empty() ? all_schedules() : std::vector<Schedule>{parse_schedule(cluster.schedule)})
          list.push_back({pipeline, expert, micro_tokens, schedule});
  return list;
}

}  // namespace

double Plan::tokens_per_gpu_second(const ClusterConfig& cluster) const {
  return tokens_per_step / step.total() / static_cast<double>(cluster.gpus);
}

double Plan::gpu_hours(const ClusterConfig& cluster, double tokens) const {
  return tokens / tokens_per_gpu_second(cluster) / 3600;
}

bool has_open_layout(const ClusterConfig& cluster) {
  return cluster.pipeline == 0 || cluster.expert == 0 || cluster.micro_tokens == 0 || cluster.schedule.empty();
}

Plan plan_training(const HfConfig& c, const ClusterConfig& cluster, const Rates& rates, const StepShape& shape) {
  if (c.num_hidden_layers > kMostLayers)
    fail("plan: expected a model of at most {} layers, found {}", kMostLayers, c.num_hidden_layers);
  std::optional<Plan> best;
  std::string impossible;
  double least_memory = std::numeric_limits<double>::infinity();
  const std::vector<Choice> all = choices(c, cluster);
  for (const Choice& choice : all) {
    try {
      Plan plan = lay_out(c, cluster, rates, shape, choice);
      least_memory = std::min(least_memory, plan.memory.total());
      if (plan.memory.total() > 1e9 * cluster.gpu_memory_gb) continue;
      SimulatedStep step = simulate_step(c, cluster, rates, plan.layout, shape);
      plan.step = step.time;
      plan.timeline = std::move(step.timeline);
      if (!best || plan.step.total() < best->step.total()) best = std::move(plan);
    } catch (const Error& e) {  // the next may do
      impossible = e.what();
    }
  }
  if (best) return std::move(*best);
  if (std::isfinite(least_memory))
    fail("memory: {} {:.1f} GB of {:.1f} on a GPU", all.size() == 1 ? "the layout needs" : "the smallest layout needs",
         1e-9 * least_memory, cluster.gpu_memory_gb);
  if (all.size() == 1) fail("{}", impossible);
  fail("plan: none of {} layouts is possible; the last: {}", all.size(), impossible);
}

}  // namespace sluice
