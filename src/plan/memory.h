// What a training step keeps in the memory of each GPU (specification 5.8, 6.7).
#pragma once
#include "model/weights.h"
#include "plan/layout.h"

namespace sluice {

/// Bytes by kind.
struct MemoryPlan {
  double weights = 0;      // FP8 codes and scales of linear layers, the rest in BF16
  double gradients = 0;    // float32
  double masters = 0;      // float32, shared among the ranks that hold the same parameters (ZeRO-1)
  double moments = 0;      // BF16, likewise
  double activations = 0;  // at the schedule's peak
  double workspace = 0;    // what the layers at work hold for a moment, and the device's own
  double buffers = 0;      // of transfers
  double expert_parameters = 0, other_parameters = 0;  // that the rank holds (numbers, not bytes)
  double total() const { return weights + gradients + masters + moments + activations + workspace + buffers; }
};

/// Of the rank of the pipeline that needs most.
MemoryPlan plan_memory(const HfConfig& c, const ClusterConfig& cluster, const Layout& layout);

}  // namespace sluice
