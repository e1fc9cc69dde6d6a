#include "train/replicas.h"

#include <algorithm>
#include <deque>
#include <numeric>

#include "train/pipeline_run.h"

namespace sluice {
namespace {

/// Neighbours among `sizes` for each of `owners`, of about the same total: the owner of each.
std::vector<int> even_shares(const std::vector<int64_t>& sizes, int owners) {
  const int64_t total = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  std::vector<int> owner;
  int64_t before = 0;
  for (const int64_t size : sizes) {
    owner.push_back(
        static_cast<int>(std::min<int64_t>((before + size / 2) * owners / std::max<int64_t>(total, 1), owners - 1)));
    before += size;
  }
  return owner;
}

/// Transfers under way, of bounded size: a network and MPI's lists are filled by a few, and more would only take
/// memory. All ranks add theirs in one order, so that the oldest of any rank is under way, or to come, on all that it
/// needs.
class Window {
 public:
  void add(Transfer t, size_t bytes) {
    under_way_.emplace_back(std::move(t), bytes);
    bytes_ += bytes;
    while (bytes_ > kMostBytes && under_way_.size() > 1) take();
  }
  void wait() {
    while (!under_way_.empty()) take();
  }

 private:
  static constexpr size_t kMostBytes = size_t{256} << 20;

  void take() {
    under_way_.front().first.wait();
    bytes_ -= under_way_.front().second;
    under_way_.pop_front();
  }

  std::deque<std::pair<Transfer, size_t>> under_way_;
  size_t bytes_ = 0;
};

/// fn(bytes) for codes and scales.
template <class Fn>
void each_part(const Matrix& m, Fn&& fn) {
  fn(bytes_of(m.tensor()));
  if (m.format == Format::fp8_128) fn(bytes_of(Tensor(m.scales, {m.scale_rows(), m.scale_cols()})));
}

}  // namespace

Replicas::Replicas(Communicator& world, const HfConfig& c, int64_t mtp_modules, const RankLayout& layout)
    : world_(world), layout_(layout) {
  if (size() % layout.pipeline != 0)
    fail("pipeline_parallel: expected a divisor of the {} ranks, found {}", size(), layout.pipeline);
  if (data_parts() % layout.expert != 0 || (layout.expert > 1 && c.n_routed_experts % layout.expert != 0))
    fail("expert_parallel: expected a divisor of the {} ranks{} and of the {} routed experts, found {}", data_parts(),
         layout.pipeline > 1 ? " of a stage" : "", c.n_routed_experts, layout.expert);
  if (size() == 1) return;
  pipeline_ = world.split(data_part());
  experts_ = world.split(world.rank() / layout.expert);
  if (layout.expert > 1) exchange_.emplace(*experts_, c.n_routed_experts, layout.exchange);
  ModelWeights shapes = weight_shapes(c, mtp_modules);
  const std::vector<Param> list = parameters(shapes);
  std::vector<Ranks> holders;
  for (const Param& p : list) holders.push_back(holders_of(p, c, mtp_modules));
  assign_owners(list, holders);
}

Replicas::Ranks Replicas::holders_of(const Param& p, const HfConfig& c, int64_t mtp_modules) const {
  const int least = layout_.schedule == Schedule::one_f_one_b || layout_.schedule == Schedule::zb1p ? 1 : 2;
  const Pipeline pipeline(layout_.schedule, layout_.pipeline, least * layout_.pipeline);  // any number of micro-batches
  std::vector<bool> is_on(static_cast<size_t>(layout_.pipeline));
  const auto add = [&](int stage) {
    for (const sluice::Place& place : pipeline.holders(stage)) is_on[static_cast<size_t>(place.rank)] = true;
  };
  if (p.kind == ParamKind::embedding) add(0);
  if (p.layer >= 0 && p.layer < c.num_hidden_layers) {
    int stage = 0;
    while (stage_range(pipeline, stage, c.num_hidden_layers).end <= p.layer) ++stage;
    add(stage);
  } else if (p.kind != ParamKind::embedding || mtp_modules > 0) {
    add(pipeline.stages() - 1);
  }
  Ranks ranks;
  for (int stage_rank = 0; stage_rank < layout_.pipeline; ++stage_rank)
    for (int d = 0; d < data_parts() && is_on[static_cast<size_t>(stage_rank)]; ++d)
      if (p.expert < 0 || !exchange_ || p.expert / exchange_->num_experts() == d % layout_.expert)
        ranks.push_back(stage_rank * data_parts() + d);
  return ranks;
}

void Replicas::assign_owners(const std::vector<Param>& list, const std::vector<Ranks>& holders) {
  std::map<Ranks, std::vector<int64_t>> sizes;
  for (size_t i = 0; i < list.size(); ++i) sizes[holders[i]].push_back(list[i].matrix->size());
  std::map<Ranks, std::vector<int>> owners;
  for (const auto& [ranks, all] : sizes) {
    owners[ranks] = even_shares(all, static_cast<int>(ranks.size()));
    const bool is_in_group = std::binary_search(ranks.begin(), ranks.end(), world_.rank());
    groups_[ranks] = world_.split(is_in_group);
    if (!is_in_group) groups_[ranks].reset();
  }
  int64_t all = 0, held = 0;
  std::map<Ranks, size_t> next;
  for (size_t i = 0; i < list.size(); ++i) {
    const Ranks& ranks = holders[i];
    const int owner = owners[ranks][next[ranks]++];
    const bool is_bias = list[i].kind == ParamKind::router_bias;
    places_.push_back({groups_[ranks].get(), owner, ranks[0] == 0});
    owners_.push_back(is_bias ? 0 : ranks[static_cast<size_t>(owner)]);
    all += list[i].matrix->size();
    if (places_[i].holders) held += list[i].matrix->size();
    // Biases follow from counts that all ranks have.
    share_.held.push_back(places_[i].holders || is_bias);
    share_.owned.push_back(owners_[i] == world_.rank() || is_bias);
  }
  held_part_ = static_cast<double>(held) / static_cast<double>(all);
}

void Replicas::reduce_gradients(ModelWeights& grad) {
  if (size() == 1) return;
  const std::vector<Param> list = parameters(grad);
  Window window;
  for (size_t i = 0; i < list.size(); ++i)
    if (places_[i].holders && list[i].kind != ParamKind::router_bias)
      window.add(places_[i].holders->reduce(list[i].matrix->tensor(), places_[i].owner),
                 list[i].matrix->tensor().bytes());
  window.wait();
}

void Replicas::share_weights(ModelWeights& working) {
  if (size() == 1) return;
  const std::vector<Param> list = parameters(working);
  Window window;
  for (size_t i = 0; i < list.size(); ++i)
    if (places_[i].holders && list[i].kind != ParamKind::router_bias)
      each_part(*list[i].matrix, [&](std::span<std::byte> bytes) {
        window.add(places_[i].holders->broadcast(bytes, places_[i].owner), bytes.size());
      });
  window.wait();
}

void Replicas::gather(ModelWeights& working) {
  if (size() == 1) return;
  const std::vector<Param> list = parameters(working);
  Window window;
  for (size_t i = 0; i < list.size(); ++i) {
    const int owner = owners_[i];
    if (owner == 0 || places_[i].is_on_first) continue;
    each_part(*list[i].matrix, [&](std::span<std::byte> bytes) {
      if (world_.rank() == 0) window.add(world_.receive(bytes, owner), bytes.size());
      if (owner == world_.rank()) window.add(world_.send(bytes, 0), bytes.size());
    });
  }
  window.wait();
}

TrafficMetrics Replicas::traffic() const {
  TrafficMetrics t;
  if (size() == 1) return t;
  t.experts = experts_->traffic().exchanged;
  t.stages = pipeline_->traffic().sent;
  for (const auto& [ranks, group] : groups_) {
    if (!group) continue;
    t.gradients += group->traffic().reduced;
    t.weights += group->traffic().broadcast;
  }
  t.rest = world_.traffic().broadcast + world_.traffic().all_reduced;
  return t;
}

}  // namespace sluice
