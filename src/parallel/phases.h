// What a pass of a micro-batch through a stage is made of, and the order of two that overlap: the same for the executor
// and for the simulation.
#pragma once
#include <vector>

#include "parallel/schedule.h"

namespace sluice {

/// Forward (F) or backward (B, Bi) of a micro-batch through a chunk. It is cut into phases, between which another pass
/// may compute.
struct StagePass {
  Step step;
  int chunk, micro;

  bool is_forward() const { return step == Step::F; }
  Action action() const { return {step, chunk, micro}; }
};

/// Those of an action; none of W. Of FB the backward comes first.
std::vector<StagePass> passes_of(const Action& action);

/// Whose turn it is (0 or 1) when passes of so many phases run together: by turns, the first one's first, then what is
/// left of the longer. With a backward first and four phases for every layer of either way, what one of them sends
/// travels while the other computes (the report's figure 4; model/block.h).
std::vector<int> turns(int first_phases, int second_phases);

}  // namespace sluice
