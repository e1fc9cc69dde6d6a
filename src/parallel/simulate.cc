#include "parallel/simulate.h"

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace sluice {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

bool has_forward(Step step) { return step == Step::F || step == Step::FB; }

/// A pass whose phases are being run.
struct Running {
  StagePass pass;
  double ready;  // when its input is there
  std::vector<PhaseSeconds> phases;
  std::vector<double> arrived = {};  // of what each phase has sent

  /// Begins its next phase when `free`; returns the end.
  Span next(double free, bool is_paired) {
    const size_t phase = arrived.size();
    const PhaseSeconds& p = phases[phase];
    double begin = std::max(free, ready);
    if (p.awaits >= 0) begin = std::max(begin, arrived[static_cast<size_t>(p.awaits)]);
    const double end = begin + p.computing;
    arrived.push_back(end + p.transfer);
    return {pass.action(), begin, end, static_cast<int>(phase), is_paired};
  }
};

class Simulation {
 public:
  Simulation(const Pipeline& pipeline, const std::vector<std::vector<Action>>& lists, const Costs& costs)
      : pipeline_(pipeline), lists_(lists), costs_(costs) {
    const size_t ranks = static_cast<size_t>(pipeline.ranks());
    check(lists.size() == ranks, "simulate: expected a list per rank");
    timeline_.ranks.resize(ranks);
    done_.resize(ranks);
    const size_t slots = ranks * static_cast<size_t>(pipeline.chunks() * pipeline.chunk_micros());
    inputs_.assign(slots, kNever);
    gradients_.assign(slots, kNever);
    put_off_.assign(slots, kNever);
    for (int rank = 0; rank < pipeline.ranks(); ++rank)
      for (int chunk = 0; chunk < pipeline.chunks(); ++chunk)
        for (int micro = 0; micro < pipeline.chunk_micros(); ++micro)
          if (pipeline.is_first({rank, chunk})) inputs_[slot({rank, chunk}, micro)] = 0;
  }

  Timeline run() {
    for (bool moves = true; moves;) {
      moves = false;
      for (int rank = 0; rank < pipeline_.ranks(); ++rank)
        while (advance(rank)) moves = true;
    }
    for (int rank = 0; rank < pipeline_.ranks(); ++rank)
      if (const Action* a = next(rank))
        fail("{}: rank {} would wait for ever to begin {}", schedule_name(pipeline_.schedule()), rank, action_name(*a));
    return std::move(timeline_);
  }

 private:
  size_t slot(Place p, int micro) const {
    return static_cast<size_t>((p.rank * pipeline_.chunks() + p.chunk) * pipeline_.chunk_micros() + micro);
  }

  const Action* next(int rank) const {
    const size_t done = done_[static_cast<size_t>(rank)];
    const std::vector<Action>& list = lists_[static_cast<size_t>(rank)];
    return done < list.size() ? &list[done] : nullptr;
  }

  /// When what a pass needs is there; kNever while that is not known.
  double ready(int rank, const StagePass& pass) const {
    return (pass.is_forward() ? inputs_ : gradients_)[slot({rank, pass.chunk}, pass.micro)];
  }
  double ready(int rank, const Action& a) const {
    if (a.step == Step::W) return put_off_[slot({rank, a.chunk}, a.micro)];
    double at = 0;
    for (const StagePass& pass : passes_of(a)) at = std::max(at, ready(rank, pass));
    return at;
  }

  bool advance(int rank) {
    const Action* a = next(rank);
    if (!a) return false;
    const double at = ready(rank, *a);
    if (at == kNever) return false;
    const std::vector<Span>& spans = timeline_.ranks[static_cast<size_t>(rank)];
    const double free = spans.empty() ? 0 : spans.back().end;
    if (a->step != Step::W && costs_.phases)
      run_phases(rank, *a, free);
    else
      run_whole(rank, *a, std::max(at, free));
    ++done_[static_cast<size_t>(rank)];
    return true;
  }

  void run_whole(int rank, const Action& a, double begin) {
    const double end = begin + costs_.seconds(rank, a);
    timeline_.ranks[static_cast<size_t>(rank)].push_back({a, begin, end});
    for (const StagePass& pass : passes_of(a)) end_pass(rank, pass, end);
  }

  void run_phases(int rank, const Action& a, double free) {
    std::vector<Running> running;
    for (const StagePass& pass : passes_of(a)) running.push_back({pass, ready(rank, pass), costs_.phases(rank, pass)});
    const bool is_pair = running.size() == 2;
    const auto phases = [&](size_t i) { return i < running.size() ? static_cast<int>(running[i].phases.size()) : 0; };
    for (const int turn : turns(phases(0), phases(1))) {
      Running& r = running[static_cast<size_t>(turn)];
      timeline_.ranks[static_cast<size_t>(rank)].push_back(r.next(free, is_pair));
      free = timeline_.ranks[static_cast<size_t>(rank)].back().end;
      if (r.arrived.size() == r.phases.size()) end_pass(rank, r.pass, free);
    }
  }

  void end_pass(int rank, const StagePass& pass, double end) {
    const Place place{rank, pass.chunk};
    pass.is_forward() ? send_output(place, pass.micro, end) : send_gradient(place, pass.micro, end);
    if (pass.step == Step::Bi) put_off_[slot(place, pass.micro)] = end;
  }

  void send_output(Place from, int micro, double end) {
    if (const auto to = pipeline_.next(from)) {
      inputs_[slot(*to, micro)] = end + (to->rank == from.rank ? 0 : costs_.forward_message);
    } else {
      gradients_[slot(from, micro)] = end;  // the loss is here
    }
  }

  void send_gradient(Place from, int micro, double end) {
    if (const auto to = pipeline_.previous(from))
      gradients_[slot(*to, micro)] = end + (to->rank == from.rank ? 0 : costs_.backward_message);
  }

  const Pipeline& pipeline_;
  const std::vector<std::vector<Action>>& lists_;
  const Costs& costs_;
  Timeline timeline_;
  std::vector<size_t> done_;                          // actions by rank
  std::vector<double> inputs_, gradients_, put_off_;  // by place and micro-batch: when they are there
};

}  // namespace

double StepSeconds::of(Step step) const {
  switch (step) {
    case Step::F:
      return F;
    case Step::B:
      return B;
    case Step::Bi:
      return Bi;
    case Step::W:
      return W;
    case Step::FB:
      return FB;
  }
  return 0;
}

Costs uniform_costs(const StepSeconds& seconds) {
  return {[seconds](int, const Action& a) { return seconds.of(a.step); }};
}

Timeline simulate(const Pipeline& pipeline, const std::vector<std::vector<Action>>& lists, const Costs& costs) {
  return Simulation(pipeline, lists, costs).run();
}

double peak_activations(const std::vector<Action>& list, std::span<const double> chunk_sizes) {
  double held = 0, peak = 0;
  for (const Action& a : list) {
    if (has_forward(a.step)) held += chunk_sizes[static_cast<size_t>(a.chunk)];
    peak = std::max(peak, held);
    const bool ends = a.step == Step::B || a.step == Step::W || a.step == Step::FB;
    if (ends) held -= chunk_sizes[static_cast<size_t>(a.step == Step::FB ? a.other_chunk : a.chunk)];
  }
  return peak;
}

}  // namespace sluice
