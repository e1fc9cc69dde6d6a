#include "plan/overlap.h"

#include <algorithm>

namespace sluice {
namespace {

/// A queue of work that runs in order.
class Line {
 public:
  /// Runs `seconds` once `ready` has passed; returns the end.
  double run(double ready, double seconds) {
    busy_ += seconds;
    return now_ = std::max(now_, ready) + seconds;
  }
  double now() const { return now_; }
  double busy() const { return busy_; }

 private:
  double now_ = 0, busy_ = 0;
};

}  // namespace

ActionTime action_time(const ActionWork& work) {
  static const std::vector<LayerTime> kNone;
  const std::vector<LayerTime>& forward = work.forward ? *work.forward : kNone;
  const std::vector<LayerTime>& backward = work.backward ? *work.backward : kNone;
  Line compute, transfer;
  const size_t layers = std::max(forward.size(), backward.size());
  const auto forward_layer = [&](size_t i) { return i < forward.size() ? forward[i] : LayerTime{}; };
  const auto backward_layer = [&](size_t i) {
    return i < backward.size() ? backward[backward.size() - 1 - i] : LayerTime{};
  };
  const auto run = [&](double ready, const Compute& c) { return compute.run(ready, c.seconds(work.sms)); };
  // Ends of what the next step of either way needs.
  double arrived_gradient = transfer.run(0, backward_layer(0).gradient_out);
  double attention = run(0, forward_layer(0).attention_forward);
  double output = attention;
  for (size_t i = 0; i < layers; ++i) {
    const LayerTime f = forward_layer(i), next = forward_layer(i + 1), b = backward_layer(i);
    const double ffn_input = run(arrived_gradient, b.ffn_input);
    if (work.has_weights) run(0, b.ffn_weight);
    const double dispatched = transfer.run(attention, f.dispatch);
    const double returned = transfer.run(ffn_input, b.gradient_back);
    const double ffn = run(dispatched, f.ffn_forward);
    const double attention_input = run(returned, b.attention_input);
    if (work.has_weights) run(0, b.attention_weight);
    output = transfer.run(ffn, f.combine);
    arrived_gradient = transfer.run(attention_input, backward_layer(i + 1).gradient_out);
    attention = run(output, next.attention_forward);
  }
  return {std::max(compute.now(), transfer.now()), compute.busy()};
}

double weight_seconds(const std::vector<LayerTime>& layers) {
  double seconds = 0;
  for (const LayerTime& t : layers) seconds += t.attention_weight.seconds() + t.ffn_weight.seconds();
  return seconds;
}

}  // namespace sluice
