// The ids that a rule of sampling leaves.
#pragma once
#include <cstdint>

#include "ops/sample.h"

namespace sluice::cpu {

/// Sets p of all but the most probable of n ids to 0: as top_k and top_p say, of these the ones not below min_p of the
/// largest. p in [0, 1], the largest 1.
void cut_tail(float* p, int64_t n, const SamplingRule& rule);

}  // namespace sluice::cpu
