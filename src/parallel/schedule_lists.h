// The action lists behind Pipeline::actions, one file per family.
#pragma once
#include "parallel/schedule.h"

namespace sluice {

/// Warm-up of P-1-rank forwards, then one forward and one backward by turns, then the backwards that are left.
std::vector<Action> actions_1f1b(int rank, int ranks, int micros);

/// 1F1B with Bi for B; the weight gradient of micro-batch j follows the input gradient of j + rank, so that the later
/// ranks, whose gradients come first, put more of them off. What is left comes at the end.
std::vector<Action> actions_zb1p(int rank, int ranks, int micros);

/// One rank of a bidirectional pipeline, in phases: chunk 0 of the list is phase 0. `distance` is that of the rank from
/// the outer end, `half` what it is folded at, `micros` those of both phases together.
std::vector<Action> actions_bidirectional(int distance, int half, int micros);

}  // namespace sluice
