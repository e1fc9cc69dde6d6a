#include "parallel/executor.h"

#include <algorithm>
#include <chrono>
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

  std::vector<Span> run() {
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
    return std::move(spans_);
  }

 private:
  using Clock = std::chrono::steady_clock;

  Place place(int chunk) const { return {ranks_.rank(), chunk}; }
  /// Names a message at its destination.
  static int tag(Kind kind, int chunk, int micro) { return (micro * 2 + chunk) * 2 + static_cast<int>(kind); }

  /// Begins to receive what an action needs. A gradient has no place before its forward is over.
  void await(const Action& a) {
    for (const StagePass& pass : passes_of(a)) await(pass);
  }
  void await(const StagePass& pass) { pass.is_forward() ? await_input(key(pass)) : await_gradient(key(pass)); }
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
    if (a.step == Step::W) {
      record(a, -1, false, [&] { work_.backward_weight(a.chunk, a.micro); });
      is_over_.insert({a.chunk, a.micro});
      return;
    }
    const std::vector<StagePass> passes = passes_of(a);
    const bool is_pair = passes.size() == 2;
    int next[2] = {};
    for (const int turn : turns(work_.phases(passes[0]), is_pair ? work_.phases(passes[1]) : 0))
      compute(passes[static_cast<size_t>(turn)], next[turn]++, is_pair);
  }
  void compute(const StagePass& pass, int phase, bool is_paired) {
    if (phase == 0) {
      await(pass);
      wait(pass.is_forward() ? Kind::forward : Kind::backward, key(pass));
    }
    work_.await(pass, phase);
    record(pass.action(), phase, is_paired, [&] { work_.compute(pass, phase); });
    if (phase + 1 == work_.phases(pass)) pass.is_forward() ? end_forward(key(pass)) : end_backward(pass);
  }
  template <class Fn>
  void record(const Action& action, int phase, bool is_paired, Fn&& fn) {
    const double begin = now();
    fn();
    spans_.push_back({action, begin, now(), phase, is_paired});
  }
  double now() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }
  static Key key(const StagePass& pass) { return {pass.chunk, pass.micro}; }

  void end_forward(const Key& k) {
    is_forward_over_.insert(k);
    if (const std::optional<Place> to = pipeline_.next(place(k.chunk)))
      send(Kind::forward, k, *to, work_.output(k.chunk, k.micro), [&] { return work_.input(to->chunk, k.micro); });
  }
  void end_backward(const StagePass& pass) {
    const Key k = key(pass);
    if (const std::optional<Place> to = pipeline_.previous(place(k.chunk)))
      send(Kind::backward, k, *to, work_.input_gradient(k.chunk, k.micro),
           [&] { return work_.output_gradient(to->chunk, k.micro); });
    if (pass.step == Step::B) is_over_.insert(k);
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
  const Clock::time_point begin_ = Clock::now();
  std::vector<Span> spans_;
  std::map<std::pair<Kind, Key>, Transfer> arriving_;
  std::map<Key, std::vector<Transfer>> leaving_;
  std::set<Key> is_forward_over_, is_over_;
};

}  // namespace

std::vector<Span> run_pipeline(const Pipeline& pipeline, Communicator& ranks, StageWork& work) {
  check(ranks.size() == pipeline.ranks(), "run_pipeline: expected a rank for each of the pipeline");
  return Run(pipeline, ranks, work).run();
}

}  // namespace sluice
