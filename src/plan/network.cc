#include "plan/network.h"

#include <algorithm>
#include <cmath>

namespace sluice {
namespace {

/// How many of `bins` equal bins `draws` of `items` things meet, drawn without putting back.
double bins_met(double bins, double items, double draws) {
  double missed = 1;  // the probability that none comes from a given bin
  for (double i = 0; i < draws; ++i) missed *= std::max(items - items / bins - i, 0.0) / (items - i);
  return bins * (1 - missed);
}

}  // namespace

Reach expert_reach(const HfConfig& c, const ClusterConfig& cluster, int64_t expert) {
  if (c.n_routed_experts == 0 || expert == 1) return {};
  const double experts = static_cast<double>(c.n_routed_experts), groups = static_cast<double>(c.n_group);
  const double chosen_groups = static_cast<double>(c.topk_group), draws = static_cast<double>(c.num_experts_per_tok);
  const double per_node = static_cast<double>(std::min(expert, cluster.gpus_per_node));
  const double nodes = static_cast<double>(expert) / per_node;
  // Nodes on which the chosen groups lie, and the experts among which the choice is.
  const double open_nodes = nodes >= groups ? chosen_groups * nodes / groups : bins_met(nodes, groups, chosen_groups);
  const double candidates = experts * chosen_groups / groups;
  Reach reach;
  reach.nodes = bins_met(open_nodes, candidates, draws);
  reach.gpus = bins_met(open_nodes * per_node, candidates, draws);
  reach.remote_nodes = reach.nodes * (nodes - 1) / nodes;
  return reach;
}

double all_to_all_seconds(const ClusterConfig& cluster, const Reach& reach, double tokens, double bytes) {
  const double within = reach.gpus * (1 - 1 / static_cast<double>(cluster.gpus_per_node));
  return 1e-9 * tokens * bytes *
         std::max(reach.remote_nodes / cluster.infiniband_gb_per_second, within / cluster.nvlink_gb_per_second);
}

double reduce_seconds(const ClusterConfig& cluster, double bytes, double ranks, double per_node) {
  const double nodes = ranks / per_node;
  return 1e-9 * bytes *
         ((per_node - 1) / per_node / cluster.nvlink_gb_per_second +
          (nodes - 1) / nodes / per_node / cluster.infiniband_gb_per_second);
}

}  // namespace sluice
