#include "parallel/executor.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

namespace sluice {
namespace {

enum class Kind : int { forward, backward };

/// A micro-batch in a chunk of this rank.
struct Key {
  int chunk, micro;
  auto operator<=>(const Key&) const = default;
};

class Run {
 public:
  Run(const Pipeline& pipeline, Communicator& ranks, StageWork& work)
      : pipeline_(pipeline), ranks_(ranks), work_(work) {}

  void run() {
    const std::vector<Action> actions = pipeline_.actions(ranks_.rank());
    for (size_t i = 0; i < actions.size(); ++i) {
      // The next action's inputs may arrive meanwhile.
      for (size_t n = i; n < std::min(i + 2, actions.size()); ++n) await(actions[n]);
      compute(actions[i]);
      release_what_is_sent();
    }
    for (auto& [key, sends] : leaving_)
      for (const Transfer& t : sends) t.wait();
    release_what_is_sent();
  }

 private:
  Place place(int chunk) const { return {ranks_.rank(), chunk}; }
  /// Names a message at its destination.
  static int tag(Kind kind, int chunk, int micro) { return (micro * 2 + chunk) * 2 + static_cast<int>(kind); }

  /// Begins to receive what an action needs. A gradient has no place before its forward is over.
  void await(const Action& a) {
    switch (a.step) {
      case Step::F:
      case Step::FB:
        await_input({a.chunk, a.micro});
        if (a.step == Step::FB) await_gradient({a.other_chunk, a.other_micro});
        break;
      case Step::B:
      case Step::Bi:
        await_gradient({a.chunk, a.micro});
        break;
      case Step::W:
        break;
    }
  }
  void await_input(const Key& k) {
    const std::optional<Place> from = pipeline_.previous(place(k.chunk));
    if (from) await(Kind::forward, k, *from, [&] { return work_.input(k.chunk, k.micro); });
  }
  void await_gradient(const Key& k) {
    const std::optional<Place> from = pipeline_.next(place(k.chunk));
    if (from && is_forward_over_.contains(k))
      await(Kind::backward, k, *from, [&] { return work_.output_gradient(k.chunk, k.micro); });
  }
  template <class Where>
  void await(Kind kind, const Key& k, const Place& from, Where where) {
    if (from.rank == ranks_.rank() || arriving_.contains({kind, k})) return;
    arriving_[{kind, k}] = ranks_.receive(where(), from.rank, tag(kind, k.chunk, k.micro));
  }

  void compute(const Action& a) {
    switch (a.step) {
      case Step::F:
        forward({a.chunk, a.micro});
        break;
      case Step::B:
      case Step::Bi:
        backward({a.chunk, a.micro}, a.step == Step::B);
        break;
      case Step::W:
        work_.backward_weight(a.chunk, a.micro);
        is_over_.insert({a.chunk, a.micro});
        break;
      case Step::FB:
        forward({a.chunk, a.micro});
        backward({a.other_chunk, a.other_micro}, true);
        break;
    }
  }
  void forward(const Key& k) {
    await_input(k);
    wait(Kind::forward, k);
    const std::span<const std::byte> out = work_.forward(k.chunk, k.micro);
    is_forward_over_.insert(k);
    if (const std::optional<Place> to = pipeline_.next(place(k.chunk)))
      send(Kind::forward, k, *to, out, [&] { return work_.input(to->chunk, k.micro); });
  }
  void backward(const Key& k, bool with_weights) {
    await_gradient(k);
    wait(Kind::backward, k);
    const std::span<const std::byte> out = work_.backward(k.chunk, k.micro, with_weights);
    if (const std::optional<Place> to = pipeline_.previous(place(k.chunk)))
      send(Kind::backward, k, *to, out, [&] { return work_.output_gradient(to->chunk, k.micro); });
    if (with_weights) is_over_.insert(k);
  }
  void wait(Kind kind, const Key& k) {
    const auto found = arriving_.find({kind, k});
    if (found == arriving_.end()) return;  // the first stage, the last one, or from this rank
    found->second.wait();
    arriving_.erase(found);
  }
  template <class Where>
  void send(Kind kind, const Key& k, const Place& to, std::span<const std::byte> data, Where where) {
    if (to.rank == ranks_.rank()) {
      std::memcpy(where().data(), data.data(), data.size());
      return;
    }
    leaving_[k].push_back(ranks_.send(data, to.rank, tag(kind, to.chunk, k.micro)));
  }
  /// Whoever waited here for a message to be taken might be who the receiver waits for.
  void release_what_is_sent() {
    std::erase_if(is_over_, [&](const Key& k) {
      const auto found = leaving_.find(k);
      if (found != leaving_.end()) {
        for (const Transfer& t : found->second)
          if (!t.is_done()) return false;
        leaving_.erase(found);
      }
      work_.release(k.chunk, k.micro);
      return true;
    });
  }

  const Pipeline& pipeline_;
  Communicator& ranks_;
  StageWork& work_;
  std::map<std::pair<Kind, Key>, Transfer> arriving_;
  std::map<Key, std::vector<Transfer>> leaving_;
  std::set<Key> is_forward_over_, is_over_;
};

}  // namespace

void run_pipeline(const Pipeline& pipeline, Communicator& ranks, StageWork& work) {
  check(ranks.size() == pipeline.ranks(), "run_pipeline: expected a rank for each of the pipeline");
  Run(pipeline, ranks, work).run();
}

}  // namespace sluice
