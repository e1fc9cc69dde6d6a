// What a step is told and what it gives.
#pragma once
#include "model/model.h"
#include "train/config.h"

namespace sluice {

/// Means over the tokens of a step, or a share of them; what they are means over.
struct StepLosses {
  double main = 0, mtp = 0, balance = 0;
  int64_t tokens = 0;
};

/// Of a micro-batch in a step of `tokens` targets: losses and gradients are shares of the step's means.
inline PassOptions pass_options(const TrainConfig& config, const StepSchedule& schedule, int64_t tokens) {
  PassOptions o;
  o.loss_scale = tokens ? 1.0f / static_cast<float>(tokens) : 0.0f;
  o.mtp_weight = schedule.mtp_weight;
  o.balance_alpha = static_cast<float>(config.balance_alpha);
  o.routed_counts = config.balance_routed_counts;
  o.recompute = config.recompute;
  return o;
}

/// Sum of a tensor's float32 elements, on the host.
double sum_of(Stream& s, const Tensor& t);

}  // namespace sluice
