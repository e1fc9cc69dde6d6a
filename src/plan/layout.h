// How a run is spread over a cluster.
#pragma once
#include <vector>

#include "formats/hf_config.h"
#include "parallel/schedule.h"
#include "plan/cluster.h"

namespace sluice {

struct Layout {
  Pipeline pipeline;
  int64_t data = 0;          // ranks that hold the same stages
  int64_t expert = 0;        // of these, ranks that share the experts
  int64_t micro_tokens = 0;  // tokens of a micro-batch on one GPU
  std::vector<int> layers;   // of each stage
};

/// Ranks that hold the same copy of a parameter, over which masters and moments are sharded and gradients summed.
struct Holders {
  double others, experts;  // of parameters outside experts, and of experts
};
Holders holders_of(const Layout& layout);

/// The first layer of each stage, and one past the last.
std::vector<int64_t> first_layers(const Layout& layout);

}  // namespace sluice
