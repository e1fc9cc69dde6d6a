// How long a chunk of layers takes when computation and transfers run beside each other.
#pragma once
#include <vector>

#include "plan/layer_time.h"

namespace sluice {

struct ActionTime {
  double seconds = 0;
  double computing = 0;  // the rest waits for transfers
};

/// What runs together. A list may be null; `forward` goes through its layers in order, `backward` from the last.
struct ActionWork {
  const std::vector<LayerTime>* forward = nullptr;
  const std::vector<LayerTime>* backward = nullptr;  // input gradients
  bool has_weights = false;                          // the weight gradients of `backward`, too
  double sms = 1;                                    // share of the multiprocessors that compute
};

/// One stream computes, one transfers, each in the order of the report's figure 4. Computing, for every pair of layers:
/// experts' input gradients, their weight gradients, experts forward, attention's input gradients, its weight
/// gradients, attention forward of the next layer. Transferring beside these: dispatch (forward), return of gradients,
/// combine (forward), gradients to the experts of the next layer.
ActionTime action_time(const ActionWork& work);

/// The weight gradients of a chunk alone: nothing is transferred.
double weight_seconds(const std::vector<LayerTime>& layers);

}  // namespace sluice
