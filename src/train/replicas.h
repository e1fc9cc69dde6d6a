// A training run on several ranks: which of them has what (specification 6.1). Rank p D + d is the p-th of a pipeline
// and sees the d-th part of each batch, of D parts (data parallelism). Each `expert_parallel` neighbours share the
// routed experts out among them. Of what several ranks hold, one owns masters and moments (ZeRO-1).
#pragma once
#include <map>
#include <memory>
#include <optional>

#include "formats/metrics_json.h"
#include "parallel/expert_exchange.h"
#include "parallel/schedule.h"
#include "train/optimizer.h"

namespace sluice {

/// How many ranks share the layers and the routed experts, how a step flows through the pipeline, how rows travel.
struct RankLayout {
  int pipeline = 1, expert = 1;
  Schedule schedule = Schedule::one_f_one_b;
  ExchangeOptions exchange = {};
};

class Replicas {
 public:
  /// `world` must outlive it. Throws Error where the layout does not fit the ranks or the model.
  Replicas(Communicator& world, const HfConfig& c, int64_t mtp_modules, const RankLayout& layout);

  int size() const { return world_.size(); }
  /// Parts of a batch, and which this rank sees.
  int data_parts() const { return size() / layout_.pipeline; }
  int data_part() const { return world_.rank() % data_parts(); }
  const RankLayout& layout() const { return layout_; }
  const RankShare& share() const { return share_; }
  /// Of all parameters: those that are held, by their sizes.
  double held_part() const { return held_part_; }
  /// Null where all experts are on every rank.
  ExpertExchange* exchange() { return exchange_ ? &*exchange_ : nullptr; }
  /// The ranks of this rank's pipeline.
  Communicator& pipeline() { return *pipeline_; }

  /// Gradients of what is owned = their sums over all ranks that hold it.
  void reduce_gradients(ModelWeights& grad);
  /// Weights that others own = theirs.
  void share_weights(ModelWeights& working);
  /// On the first rank, weights that it does not hold = their owners'.
  void gather(ModelWeights& working);
  /// Of each parameter, by its place: the rank that owns it. Empty where there is one rank.
  const std::vector<int>& owners() const { return owners_; }
  /// Bytes that this rank has given to others so far; step, steps and tokens are 0.
  TrafficMetrics traffic() const;
  /// data = the sum over all ranks (f64, i64).
  void sum(const Tensor& data) { world_.all_reduce(data).wait(); }

 private:
  using Ranks = std::vector<int>;
  struct Place {
    Communicator* holders;  // those that hold it; null where this rank is none of them
    int owner;              // among them
    bool is_on_first;
  };
  /// In ascending order.
  Ranks holders_of(const Param& p, const HfConfig& c, int64_t mtp_modules) const;
  void assign_owners(const std::vector<Param>& list, const std::vector<Ranks>& holders);

  Communicator& world_;
  RankLayout layout_;
  std::unique_ptr<Communicator> experts_, pipeline_;
  std::map<Ranks, std::unique_ptr<Communicator>> groups_;
  std::optional<ExpertExchange> exchange_;
  RankShare share_;
  double held_part_ = 1;
  std::vector<Place> places_;  // by place in parameters()
  std::vector<int> owners_;    // likewise; of router biases, which all have, the first
};

}  // namespace sluice
