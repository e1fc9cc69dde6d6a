// The time of a step of one layout, from the schedule's own lists through the simulator.
#pragma once
#include "plan/plan.h"

namespace sluice {

/// Layers cut into stages for this layout (its `layers` are ignored).
std::vector<int> plan_stages(const HfConfig& c, const ClusterConfig& cluster, const Rates& rates, const Layout& layout,
                             const StepShape& shape);

struct SimulatedStep {
  StepTime time;
  Timeline timeline;
};
SimulatedStep simulate_step(const HfConfig& c, const ClusterConfig& cluster, const Rates& rates, const Layout& layout,
                            const StepShape& shape);

}  // namespace sluice
