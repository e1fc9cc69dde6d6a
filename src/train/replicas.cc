#include "train/replicas.h"

#include <numeric>

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

void wait_for(const std::vector<Transfer>& transfers) {
  for (const Transfer& t : transfers) t.wait();
}

/// fn(bytes) for codes and scales.
template <class Fn>
void each_part(const Matrix& m, Fn&& fn) {
  fn(bytes_of(m.tensor()));
  if (m.format == Format::fp8_128) fn(bytes_of(Tensor(m.scales, {m.scale_rows(), m.scale_cols()})));
}

}  // namespace

Replicas::Replicas(Communicator& world, const HfConfig& c, int64_t mtp_modules, int64_t expert_parallel)
    : world_(world) {
  const int ranks = static_cast<int>(expert_parallel);
  if (world.size() == 1) return;
  if (world.size() % ranks != 0 || (ranks > 1 && c.n_routed_experts % ranks != 0))
    fail("expert_parallel: expected a divisor of the {} ranks and of the {} routed experts, found {}", world.size(),
         c.n_routed_experts, ranks);
  experts_ = world.split(world.rank() / ranks);
  same_experts_ = world.split(world.rank() % ranks);
  if (ranks > 1) exchange_.emplace(*experts_, c.n_routed_experts);
  ModelWeights shapes = weight_shapes(c, mtp_modules);
  assign_owners(shapes);
}

void Replicas::assign_owners(ModelWeights& shapes) {
  const std::vector<Param> list = parameters(shapes);
  const int ranks = experts_->size();
  std::vector<int64_t> dense, routed;
  for (const Param& p : list) (p.expert < 0 ? dense : routed).push_back(p.matrix->size());
  const std::vector<int> dense_owner = even_shares(dense, world_.size()),
                         routed_owner = even_shares(routed, same_experts_->size());
  size_t d = 0, r = 0;
  for (const Param& p : list) {
    if (p.expert < 0) {
      const int owner = dense_owner[d++];
      places_.push_back({&world_, owner, owner});
      share_.held.push_back(true);
      share_.owned.push_back(owner == world_.rank());
      continue;
    }
    const int owner = routed_owner[r++];
    const int64_t here = exchange_ ? p.expert / exchange_->num_experts() : 0;  // which of the ranks that share them out
    const bool is_held = here == experts_->rank();
    places_.push_back({is_held ? same_experts_.get() : nullptr, owner, owner * ranks + static_cast<int>(here)});
    share_.held.push_back(is_held);
    share_.owned.push_back(is_held && owner == same_experts_->rank());
  }
}

void Replicas::reduce_gradients(ModelWeights& grad) {
  if (size() == 1) return;
  const std::vector<Param> list = parameters(grad);
  std::vector<Transfer> transfers;
  for (size_t i = 0; i < list.size(); ++i)
    if (places_[i].holders && list[i].kind != ParamKind::router_bias)
      transfers.push_back(places_[i].holders->reduce(list[i].matrix->tensor(), places_[i].owner));
  wait_for(transfers);
}

void Replicas::share_weights(ModelWeights& working) {
  if (size() == 1) return;
  const std::vector<Param> list = parameters(working);
  std::vector<Transfer> transfers;
  for (size_t i = 0; i < list.size(); ++i)
    if (places_[i].holders && list[i].kind != ParamKind::router_bias)
      each_part(*list[i].matrix, [&](std::span<std::byte> bytes) {
        transfers.push_back(places_[i].holders->broadcast(bytes, places_[i].owner));
      });
  wait_for(transfers);
}

void Replicas::gather(ModelWeights& tree) {
  if (size() == 1) return;
  const std::vector<Param> list = parameters(tree);
  std::vector<Transfer> transfers;
  for (size_t i = 0; i < list.size(); ++i) {
    const int owner = places_[i].owner_in_world;
    if (owner == 0 || list[i].kind == ParamKind::router_bias) continue;
    each_part(*list[i].matrix, [&](std::span<std::byte> bytes) {
      if (is_first()) transfers.push_back(world_.receive(bytes, owner));
      if (owner == rank()) transfers.push_back(world_.send(bytes, 0));
    });
  }
  wait_for(transfers);
}

}  // namespace sluice
