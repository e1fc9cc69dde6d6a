#include "parallel/simulate.h"

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace sluice {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

bool has_forward(Step step) { return step == Step::F || step == Step::FB; }
bool has_input_gradient(Step step) { return step == Step::B || step == Step::Bi || step == Step::FB; }

Place backward_place(int rank, const Action& a) { return {rank, a.step == Step::FB ? a.other_chunk : a.chunk}; }
int backward_micro(const Action& a) { return a.step == Step::FB ? a.other_micro : a.micro; }

class Simulation {
 public:
  Simulation(const Pipeline& pipeline, const std::vector<std::vector<Action>>& lists, const Costs& costs)
      : pipeline_(pipeline), lists_(lists), costs_(costs) {
    const size_t ranks = static_cast<size_t>(pipeline.ranks());
    check(lists.size() == ranks, "simulate: expected a list per rank");
    timeline_.ranks.resize(ranks);
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
    const size_t done = timeline_.ranks[static_cast<size_t>(rank)].size();
    const std::vector<Action>& list = lists_[static_cast<size_t>(rank)];
    return done < list.size() ? &list[done] : nullptr;
  }

  /// When everything that `a` needs is there; kNever while that is not known.
  double ready(int rank, const Action& a) const {
    double at = 0;
    if (has_forward(a.step)) at = std::max(at, inputs_[slot({rank, a.chunk}, a.micro)]);
    if (has_input_gradient(a.step)) at = std::max(at, gradients_[slot(backward_place(rank, a), backward_micro(a))]);
    if (a.step == Step::W) at = std::max(at, put_off_[slot({rank, a.chunk}, a.micro)]);
    return at;
  }

  bool advance(int rank) {
    const Action* a = next(rank);
    if (!a) return false;
    const double at = ready(rank, *a);
    if (at == kNever) return false;
    std::vector<Span>& spans = timeline_.ranks[static_cast<size_t>(rank)];
    const double begin = std::max(at, spans.empty() ? 0 : spans.back().end);
    const double end = begin + costs_.seconds(rank, *a);
    spans.push_back({*a, begin, end});
    if (has_forward(a->step)) send_output({rank, a->chunk}, a->micro, end);
    if (has_input_gradient(a->step)) send_gradient(backward_place(rank, *a), backward_micro(*a), end);
    if (a->step == Step::Bi) put_off_[slot({rank, a->chunk}, a->micro)] = end;
    return true;
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
