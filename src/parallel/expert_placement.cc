#include "parallel/expert_placement.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <queue>
#include <utility>

#include "base/error.h"

namespace sluice {
namespace {

constexpr int64_t kMostReplicas = 65536;

size_t index(int64_t i) { return static_cast<size_t>(i); }

void check_shape(std::span<const int64_t> load, const PlacementShape& s) {
  const int64_t E = static_cast<int64_t>(load.size());
  if (E < 1) fail("experts: expected at least 1, found none");
  if (s.groups < 1 || E % s.groups != 0) fail("groups: expected a divisor of the {} experts, found {}", E, s.groups);
  if (s.nodes < 1) fail("nodes: expected at least 1, found {}", s.nodes);
  if (s.gpus < 1 || s.gpus % s.nodes != 0) fail("GPUs: expected a multiple of the {} nodes, found {}", s.nodes, s.gpus);
  if (s.replicas < E || s.replicas > kMostReplicas || s.replicas % s.gpus != 0)
    fail("experts and redundant ones: expected a multiple of the {} GPUs from {} to {}, found {}", s.gpus, E,
         kMostReplicas, s.replicas);
  if (std::any_of(load.begin(), load.end(), [](int64_t n) { return n < 0; })) fail("load: expected no negative number");
  if (std::all_of(load.begin(), load.end(), [](int64_t n) { return n == 0; }))
    fail("load: expected tokens, found none");
}

/// All experts, those of node 0 first; groups are shared out by their load.
std::vector<int32_t> experts_by_node(std::span<const int64_t> load, int64_t groups, int64_t nodes) {
  const int64_t size = static_cast<int64_t>(load.size()) / groups, groups_of_node = groups / nodes;
  std::vector<double> group_load(index(groups));
  for (size_t e = 0; e < load.size(); ++e) group_load[e / index(size)] += static_cast<double>(load[e]);
  const Packing packing = balanced_packing(group_load, nodes);
  std::vector<int32_t> experts(load.size());
  for (int64_t g = 0; g < groups; ++g) {
    const auto begin = experts.begin() + (packing.pack[index(g)] * groups_of_node + packing.slot[index(g)]) * size;
    std::iota(begin, begin + size, static_cast<int32_t>(g * size));
  }
  return experts;
}

/// Places of replica `rank` of each expert, from the expert and the rank at each place.
void fill_logical_to_physical(ExpertPlacement& p, const std::vector<int32_t>& rank) {
  p.most_copies = *std::max_element(p.counts.begin(), p.counts.end());
  p.logical_to_physical.assign(p.counts.size() * index(p.most_copies), -1);
  for (size_t place = 0; place < rank.size(); ++place)
    p.logical_to_physical[index(p.physical_to_logical[place] * p.most_copies + rank[place])] =
        static_cast<int32_t>(place);
}

}  // namespace

Packing balanced_packing(std::span<const double> weights, int64_t packs) {
  const int64_t items = static_cast<int64_t>(weights.size());
  check(packs > 0 && items % packs == 0, "balanced_packing: expected as many items for every pack");
  const int64_t capacity = items / packs;
  Packing p{std::vector<int32_t>(weights.size()), std::vector<int32_t>(weights.size())};
  if (capacity == 1) {
    std::iota(p.pack.begin(), p.pack.end(), 0);
    return p;
  }
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return weights[a] > weights[b]; });
  using Pack = std::pair<double, int32_t>;  // total weight, index
  std::priority_queue<Pack, std::vector<Pack>, std::greater<>> open;
  for (int32_t i = 0; i < packs; ++i) open.emplace(0.0, i);
  std::vector<int32_t> filled(index(packs));
  for (const size_t item : order) {
    const auto [total, pack] = open.top();
    open.pop();
    p.pack[item] = pack;
    p.slot[item] = filled[index(pack)]++;
    if (filled[index(pack)] < capacity) open.emplace(total + weights[item], pack);
  }
  return p;
}

Replicas replicate(std::span<const double> load, int64_t replicas) {
  check(!load.empty() && replicas >= static_cast<int64_t>(load.size()), "replicate: expected a replica per expert");
  Replicas r{std::vector<int32_t>(load.size()), std::vector<int32_t>(load.size()),
             std::vector<int32_t>(load.size(), 1)};
  std::iota(r.expert.begin(), r.expert.end(), 0);
  using Share = std::pair<double, int32_t>;  // load per copy, minus the expert: the first of equal ones is on top
  std::priority_queue<Share> shares;
  for (size_t e = 0; e < load.size(); ++e) shares.emplace(load[e], -static_cast<int32_t>(e));
  while (static_cast<int64_t>(r.expert.size()) < replicas) {
    const int32_t expert = -shares.top().second;
    shares.pop();
    int32_t& count = r.counts[index(expert)];
    r.expert.push_back(expert);
    r.rank.push_back(count++);
    shares.emplace(load[index(expert)] / count, -expert);
  }
  return r;
}

ExpertPlacement place_experts(std::span<const int64_t> load, const PlacementShape& shape) {
  check_shape(load, shape);
  const int64_t nodes = shape.is_hierarchical() ? shape.nodes : 1, groups = shape.is_hierarchical() ? shape.groups : 1;
  const int64_t E = static_cast<int64_t>(load.size()), R = shape.replicas;
  const int64_t E_node = E / nodes, R_node = R / nodes, R_gpu = R / shape.gpus;
  const std::vector<int32_t> experts = experts_by_node(load, groups, nodes);
  ExpertPlacement p;
  p.physical_to_logical.resize(index(R));
  p.counts.resize(index(E));
  std::vector<int32_t> rank(index(R));  // at each place
  for (int64_t node = 0; node < nodes; ++node) {
    const auto mine = std::span(experts).subspan(index(node * E_node), index(E_node));
    std::vector<double> node_load;
    for (const int32_t e : mine) node_load.push_back(static_cast<double>(load[index(e)]));
    const Replicas replicas = replicate(node_load, R_node);
    std::vector<double> replica_load;
    for (const int32_t e : replicas.expert) replica_load.push_back(node_load[index(e)] / replicas.counts[index(e)]);
    const Packing packing = balanced_packing(replica_load, shape.gpus / nodes);
    for (size_t i = 0; i < replicas.expert.size(); ++i) {
      const size_t place = index(node * R_node + packing.pack[i] * R_gpu + packing.slot[i]);
      p.physical_to_logical[place] = mine[index(replicas.expert[i])];
      rank[place] = replicas.rank[i];
    }
    for (size_t i = 0; i < mine.size(); ++i) p.counts[index(mine[i])] = replicas.counts[i];
  }
  fill_logical_to_physical(p, rank);
  return p;
}

std::vector<double> gpu_load(std::span<const int64_t> load, const ExpertPlacement& placement, int64_t gpus) {
  const std::vector<int32_t>& places = placement.physical_to_logical;
  check(gpus > 0 && places.size() % index(gpus) == 0, "gpu_load: expected as many places for every GPU");
  std::vector<double> out(index(gpus));
  for (size_t place = 0; place < places.size(); ++place) {
    const size_t expert = index(places[place]);
    out[place / (places.size() / index(gpus))] += static_cast<double>(load[expert]) / placement.counts[expert];
  }
  return out;
}

std::vector<double> gpu_load_in_order(std::span<const int64_t> load, int64_t gpus) {
  check(gpus > 0, "gpu_load_in_order: expected a GPU");
  std::vector<double> out(index(gpus));
  for (size_t e = 0; e < load.size(); ++e) out[e * index(gpus) / load.size()] += static_cast<double>(load[e]);
  return out;
}

double max_over_mean(std::span<const double> load) {
  const double total = std::accumulate(load.begin(), load.end(), 0.0);
  check(total > 0, "max_over_mean: expected a load");
  return *std::max_element(load.begin(), load.end()) * static_cast<double>(load.size()) / total;
}

}  // namespace sluice
