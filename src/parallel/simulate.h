// Running a schedule without a model: when each action begins and ends, given what actions and messages take.
#pragma once
#include <functional>
#include <span>

#include "parallel/phases.h"
#include "parallel/timeline.h"

namespace sluice {

/// Seconds of each kind of action.
struct StepSeconds {
  double F, B, Bi, W, FB;
  double of(Step step) const;
};

/// Of a phase of a pass.
struct PhaseSeconds {
  double computing = 0;
  double transfer = 0;  // from its end to the arrival of what it sends to other ranks of its stage
  int awaits = -1;      // the phase of the same pass whose transfer must have arrived; -1: none
};

struct Costs {
  std::function<double(int rank, const Action&)> seconds;  // of an action on a rank
  // From the end of an action to the arrival of its output or gradient at another rank; nothing within a rank. Messages
  // run beside actions and do not delay each other.
  double forward_message = 0, backward_message = 0;
  // Where given, passes are run in these phases, pairs by turns as the executor does; `seconds` is of W only.
  std::function<std::vector<PhaseSeconds>(int rank, const StagePass&)> phases = {};
};

/// The same on all ranks, messages free.
Costs uniform_costs(const StepSeconds& seconds);

/// Every rank runs its list in order; an action begins when the one before it has ended and what it needs has arrived:
/// F the output of the stage before, B and Bi the gradient of the stage behind (at the last stage: their own F), W its
/// Bi, FB both; with phases each pass of a pair for itself. Throws Error naming rank and action where a rank would wait
/// for ever.
Timeline simulate(const Pipeline& pipeline, const std::vector<std::vector<Action>>& lists, const Costs& costs);

/// The most that the activations of a rank take at a time, if a micro-batch takes `chunk_sizes[chunk]` from the begin
/// of its F to the end of its B or W (what Bi leaves for W counts as a whole). With sizes of 1: micro-batches.
double peak_activations(const std::vector<Action>& list, std::span<const double> chunk_sizes);

}  // namespace sluice
