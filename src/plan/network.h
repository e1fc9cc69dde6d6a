// Where the rows of a token go, and how long transfers take (specification 6.6).
#pragma once
#include "formats/hf_config.h"
#include "plan/cluster.h"

namespace sluice {

/// How many ranks of an expert-parallel group a token's rows reach, if experts are chosen evenly.
struct Reach {
  double nodes = 1;         // that hold at least one of its experts
  double gpus = 1;          // likewise
  double remote_nodes = 0;  // of `nodes`, without its own
};

/// For `expert` ranks that share the routed experts, node by node; groups of experts lie on whole nodes as far as their
/// numbers allow.
Reach expert_reach(const HfConfig& c, const ClusterConfig& cluster, int64_t expert);

/// Seconds of an all-to-all of `tokens` tokens of `bytes` each: once to each node over InfiniBand, then to the GPUs of
/// that node over NVLink; the two run at the same time.
double all_to_all_seconds(const ClusterConfig& cluster, const Reach& reach, double tokens, double bytes);

/// Seconds in which each of `ranks` ranks reduces and scatters, or gathers, `bytes`: first within the node, then what
/// is left of it between nodes. `per_node` of the ranks share a node.
double reduce_seconds(const ClusterConfig& cluster, double bytes, double ranks, double per_node);

}  // namespace sluice
