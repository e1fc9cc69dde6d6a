// Cutting the layers of a model into the stages of a pipeline.
#pragma once
#include <vector>

#include "parallel/schedule.h"

namespace sluice {

/// How many layers each stage gets, in order, so that the busiest rank has least to do, and then the largest stage.
/// `costs`: of each layer, at most 512; `tail`: of what follows the layers on the last stage (head, MTP). A rank with
/// two stages is as busy as both together. A stage may stay empty.
std::vector<int> split_layers(const std::vector<double>& costs, double tail, const Pipeline& pipeline);

}  // namespace sluice
