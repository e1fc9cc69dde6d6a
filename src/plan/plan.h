// What training a model on a cluster takes: memory, time of a step by cause, GPU-hours.
#pragma once
#include "parallel/timeline.h"
#include "plan/memory.h"
#include "plan/rates.h"

namespace sluice {

/// Sequences of a length, so many per step.
struct StepShape {
  int64_t seq_len, batch_size;
};

/// Seconds of a step, by cause; means over the ranks of the pipeline. They add up to total().
struct StepTime {
  double products = 0, attention = 0, elementwise = 0;  // as if all multiprocessors computed all the time
  double kept_sms = 0;                                  // more, because some of them transfer
  double exposed = 0;    // waiting for transfers of expert parallelism inside of an action
  double uneven = 0;     // waiting for the busiest rank
  double bubble = 0;     // what the schedule, and messages between stages, leave idle even there
  double gradients = 0;  // summing gradients and gathering weights over data-parallel ranks
  double optimizer = 0;
  double total() const {
    return products + attention + elementwise + kept_sms + exposed + uneven + bubble + gradients + optimizer;
  }
};

struct Plan {
  Layout layout;
  MemoryPlan memory = {};
  StepTime step = {};
  Timeline timeline = {};  // of forwards and backwards, without gradients and optimizer
  double tokens_per_step = 0;
  double flops_per_token = 0;  // of the model: recomputation not counted
  double tokens_per_gpu_second(const ClusterConfig& cluster) const;
  /// GPU-hours of so many tokens.
  double gpu_hours(const ClusterConfig& cluster, double tokens) const;
};

/// Plans the layout that `cluster` gives; what it leaves open is searched: the fastest that fits into memory. Throws
/// Error, one line, where a given layout is impossible or does not fit, or none does.
Plan plan_training(const HfConfig& c, const ClusterConfig& cluster, const Rates& rates, const StepShape& shape);

/// Whether the search had to choose anything.
bool has_open_layout(const ClusterConfig& cluster);

}  // namespace sluice
