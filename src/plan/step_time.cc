#include "plan/step_time.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "model/config.h"
#include "parallel/simulate.h"
#include "plan/overlap.h"
#include "plan/stages.h"

namespace sluice {
namespace {

using Layers = std::vector<LayerTime>;

MicroShape micro_shape(const Layout& layout, const StepShape& shape) {
  return {static_cast<double>(layout.micro_tokens), static_cast<double>(shape.seq_len), layout.expert};
}

/// All layers of the model, then what follows them: head, and per MTP module its input, block and head.
struct ModelTime {
  Layers layers, tail;
};

ModelTime model_time(const HfConfig& c, const ClusterConfig& cluster, const Rates& rates, const MicroShape& micro) {
  const LayerTime dense = layer_time(c, LayerKind::dense, micro, cluster, rates);
  const bool has_experts = c.n_routed_experts > 0;
  const LayerTime experts = has_experts ? layer_time(c, LayerKind::experts, micro, cluster, rates) : dense;
  const LayerTime head = head_time(c, micro, rates);
  ModelTime m;
  for (int64_t l = 0; l < c.num_hidden_layers; ++l) m.layers.push_back(is_moe_layer(c, l) ? experts : dense);
  m.tail.push_back(head);
  for (int64_t i = 0; i < c.num_nextn_predict_layers; ++i) {
    m.tail.push_back(mtp_input_time(c, micro, rates));
    m.tail.push_back(is_moe_layer(c, c.num_hidden_layers + i) ? experts : dense);
    m.tail.push_back(head);
  }
  return m;
}

/// Computing of all phases.
Compute compute_of(const LayerTime& t) {
  Compute sum;
  for (const Compute* c :
       {&t.attention_forward, &t.attention_input, &t.attention_weight, &t.ffn_forward, &t.ffn_input, &t.ffn_weight})
    sum += *c;
  return sum;
}

/// What each action takes, by the stages it works on.
class ActionTimes {
 public:
  ActionTimes(const Pipeline& pipeline, std::vector<Layers> stages, double overlapped_sms)
      : pipeline_(pipeline), stages_(std::move(stages)), overlapped_sms_(overlapped_sms) {}

  ActionTime of(int rank, const Action& a) {
    const int stage = pipeline_.stage({rank, a.chunk});
    const int other = a.step == Step::FB ? pipeline_.stage({rank, a.other_chunk}) : 0;
    const auto [at, is_new] = known_.try_emplace({a.step, stage, other});
    if (is_new) at->second = work_out(a.step, stage, other);
    return at->second;
  }

 private:
  ActionTime work_out(Step step, int stage, int other) const {
    const Layers& own = stages_[static_cast<size_t>(stage)];
    switch (step) {
      case Step::F:
        return action_time({.forward = &own});
      case Step::B:
        return action_time({.backward = &own, .has_weights = true});
      case Step::Bi:
        return action_time({.backward = &own});
      case Step::W:
        return {weight_seconds(own), weight_seconds(own)};
      case Step::FB:
        return action_time({&own, &stages_[static_cast<size_t>(other)], true, overlapped_sms_});
    }
    return {};
  }

  const Pipeline& pipeline_;
  std::vector<Layers> stages_;
  double overlapped_sms_;
  std::map<std::tuple<Step, int, int>, ActionTime> known_;
};

/// Seconds after the last backward: gradients are summed over the ranks that hold the same parameters, every holder
/// updates its share, and the new working weights are gathered.
void add_update(StepTime& t, const ClusterConfig& cluster, const Layout& layout, const Rates& rates,
                const MemoryPlan& memory) {
  const Holders holders = holders_of(layout);
  const double per_node = static_cast<double>(std::min(cluster.gpus_per_node, layout.data));
  const double expert_per_node = std::max(1.0, per_node / static_cast<double>(layout.expert));
  const double bytes = 4 + 2;  // gradients in float32, weights in BF16
  t.gradients = reduce_seconds(cluster, bytes * memory.other_parameters, holders.others, per_node) +
                reduce_seconds(cluster, bytes * memory.expert_parameters, holders.experts, expert_per_node);
  // Gradient, master and both moments are read; master, moments and weight are written.
  t.optimizer = rates.optimizer((memory.masters / 4) * ((4 + 4 + 4) + (4 + 4 + 2)));
}

/// Computing without transfers: the mean over the ranks of what their micro-batches take.
void add_computing(StepTime& t, const Layout& layout, const std::vector<Layers>& stages) {
  for (int rank = 0; rank < layout.pipeline.ranks(); ++rank)
    for (int chunk = 0; chunk < layout.pipeline.chunks(); ++chunk)
      for (const LayerTime& layer : stages[static_cast<size_t>(layout.pipeline.stage({rank, chunk}))]) {
        const Compute sum = compute_of(layer);
        const double share = static_cast<double>(layout.pipeline.chunk_micros()) / layout.pipeline.ranks();
        t.products += share * sum.products, t.attention += share * sum.attention;
        t.elementwise += share * sum.elementwise;
      }
}

/// What the timeline adds to it.
void add_waiting(StepTime& t, const Timeline& timeline, ActionTimes& times) {
  const double ranks = static_cast<double>(timeline.ranks.size());
  double busiest = 0, busy_sum = 0, computing = 0;
  for (int rank = 0; rank < static_cast<int>(ranks); ++rank) {
    double busy = 0;
    for (const Span& s : timeline.ranks[static_cast<size_t>(rank)]) {
      busy += s.end - s.begin;
      computing += times.of(rank, s.action).computing;
    }
    busiest = std::max(busiest, busy);
    busy_sum += busy;
  }
  t.kept_sms = std::max(computing / ranks - t.products - t.attention - t.elementwise, 0.0);  // not -1e-15
  t.exposed = (busy_sum - computing) / ranks;
  t.uneven = busiest - busy_sum / ranks;
  t.bubble = total_seconds(timeline) - busiest;
}

std::vector<Layers> stages_of(const ModelTime& m, const Layout& layout) {
  const std::vector<int64_t> first = first_layers(layout);
  std::vector<Layers> stages;
  for (size_t s = 0; s < layout.layers.size(); ++s)
    stages.emplace_back(m.layers.begin() + first[s], m.layers.begin() + first[s + 1]);
  stages.back().insert(stages.back().end(), m.tail.begin(), m.tail.end());
  return stages;
}

/// Seconds of a hidden state from one stage to the next; within a node only where there is no other.
double message_seconds(const HfConfig& c, const ClusterConfig& cluster, const Layout& layout) {
  const bool is_within = cluster.gpus <= cluster.gpus_per_node;
  return 1e-9 * 2 * static_cast<double>(c.hidden_size) * static_cast<double>(layout.micro_tokens) /
         (is_within ? cluster.nvlink_gb_per_second : cluster.infiniband_gb_per_second);
}

}  // namespace

std::vector<int> plan_stages(const HfConfig& c, const ClusterConfig& cluster, const Rates& rates, const Layout& layout,
                             const StepShape& shape) {
  const ModelTime m = model_time(c, cluster, rates, micro_shape(layout, shape));
  std::vector<double> costs;
  for (const LayerTime& t : m.layers) costs.push_back(compute_of(t).seconds());
  double tail = 0;
  for (const LayerTime& t : m.tail) tail += compute_of(t).seconds();
  return split_layers(costs, tail, layout.pipeline);
}

SimulatedStep simulate_step(const HfConfig& c, const ClusterConfig& cluster, const Rates& rates, const Layout& layout,
                            const StepShape& shape) {
  const std::vector<Layers> stages = stages_of(model_time(c, cluster, rates, micro_shape(layout, shape)), layout);
  const double kept = layout.expert > 1 ? static_cast<double>(cluster.communication_sms) : 0;
  ActionTimes times(layout.pipeline, stages, 1 - kept / static_cast<double>(cluster.sms));
  const double message = message_seconds(c, cluster, layout);
  const Costs costs{[&](int rank, const Action& a) { return times.of(rank, a).seconds; }, message, message};
  SimulatedStep result;
  result.timeline = simulate(layout.pipeline, all_actions(layout.pipeline), costs);
  add_computing(result.time, layout, stages);
  add_waiting(result.time, result.timeline, times);
  add_update(result.time, cluster, layout, rates, plan_memory(c, cluster, layout));
  return result;
}

}  // namespace sluice
