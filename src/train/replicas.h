// A training run on several ranks: which of them has what. All ranks see other sequences of a batch (data parallelism);
// each `expert_parallel` neighbours share the routed experts out among them; of what several ranks hold, one owns
// masters and moments (ZeRO-1, specification 6.1).
#pragma once
#include <memory>
#include <optional>

#include "parallel/expert_exchange.h"
#include "train/optimizer.h"

namespace sluice {

class Replicas {
 public:
  /// `world` must outlive it. `expert_parallel` divides the number of ranks and the model's of routed experts.
  Replicas(Communicator& world, const HfConfig& c, int64_t mtp_modules, int64_t expert_parallel);

  bool is_first() const { return world_.rank() == 0; }
  int size() const { return world_.size(); }
  int rank() const { return world_.rank(); }
  const RankShare& share() const { return share_; }
  /// Null where all experts are on every rank.
  ExpertExchange* exchange() { return exchange_ ? &*exchange_ : nullptr; }

  /// Gradients of what is owned = their sums over all ranks that hold it.
  void reduce_gradients(ModelWeights& grad);
  /// Weights that others own = theirs.
  void share_weights(ModelWeights& working);
  /// On the first rank, what others own of `tree` = theirs, whether it holds it or not.
  void gather(ModelWeights& tree);
  /// data = the sum over all ranks (f64, i64).
  void sum(const Tensor& data) { world_.all_reduce(data).wait(); }

 private:
  struct Place {
    Communicator* holders;  // those that hold it
    int owner;              // among them
    int owner_in_world;
  };
  void assign_owners(ModelWeights& shapes);

  Communicator& world_;
  std::unique_ptr<Communicator> experts_, same_experts_;
  std::optional<ExpertExchange> exchange_;
  RankShare share_;
  std::vector<Place> places_;  // by place in parameters(); holders null where this rank is none of them
};

}  // namespace sluice
