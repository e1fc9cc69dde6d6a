// Where the experts of a layer and the copies of busy ones lie: EPLB (specification 6.8), so that GPUs that share the
// experts get as equal a load as may be. E experts, R replicas (experts and their further copies), U GPUs, N nodes.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

struct PlacementShape {
  int64_t replicas = 0;  // R
  int64_t groups = 1;    // of experts, of which a token may choose few (n_group)
  int64_t nodes = 1;     // N
  int64_t gpus = 1;      // U, of all nodes
  /// Whether every group stays on one node with all copies of its experts, which keeps traffic between nodes low. Where
  /// the groups cannot be shared out evenly, nodes and groups do not count (global placement).
  bool is_hierarchical() const { return groups % nodes == 0; }
};

/// Replicas have places 0 to R - 1; GPU g holds those from g R/U on, node n those from n R/N on.
struct ExpertPlacement {
  std::vector<int32_t> physical_to_logical;  // (R): the expert at each place
  std::vector<int32_t> logical_to_physical;  // (E, most_copies): the places of each expert; -1 after the last
  std::vector<int32_t> counts;               // (E): how many places each expert has, at least 1
  int64_t most_copies = 0;
};

/// Places the experts for `load`, tokens per expert. Equal loads are placed in the order of their indices. More
/// replicas make the busiest one lighter; as the heaviest-first packing is not the best there is, the busiest GPU can
/// seldom be a little busier than with fewer. Throws Error unless E >= 1, E <= R <= 65536, GPUs divide R, nodes divide
/// the GPUs, groups divide E, and some load is not 0; none may be negative.
ExpertPlacement place_experts(std::span<const int64_t> load, const PlacementShape& shape);

/// The load of every GPU when the tokens of an expert are spread evenly over its copies. `gpus` divides the places.
std::vector<double> gpu_load(std::span<const int64_t> load, const ExpertPlacement& placement, int64_t gpus);

/// The same without copies, the experts in order: expert e on GPU floor(e U / E).
std::vector<double> gpu_load_in_order(std::span<const int64_t> load, int64_t gpus);

/// The largest over the mean; not all of `load` may be 0.
double max_over_mean(std::span<const double> load);

/// The two steps that a placement is made of.
///
/// Items in packs of the same number: the heaviest first, each into the lightest pack that is not full (ties: the first
/// item, the first pack). With one item per pack, item i is in pack i. `packs` divides the number of items.
struct Packing {
  std::vector<int32_t> pack, slot;  // of each item; slots count the items of a pack in the order of arrival
};
Packing balanced_packing(std::span<const double> weights, int64_t packs);

/// One replica per expert, in order, then one more of the expert with the largest load per copy (ties: the first) until
/// there are R >= E.
struct Replicas {
  std::vector<int32_t> expert, rank;  // (R): whose replica, and the how manieth of it
  std::vector<int32_t> counts;        // (E)
};
Replicas replicate(std::span<const double> load, int64_t replicas);

}  // namespace sluice
