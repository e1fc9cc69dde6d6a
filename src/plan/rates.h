// How long one operation takes on one GPU: from measured speeds, or from the peaks of the cluster.
#pragma once
#include "formats/measurements.h"
#include "plan/cluster.h"

namespace sluice {

enum class NumberType { fp8, bf16 };
enum class Pass { forward, backward, weight };  // input gradients of products count as forward

/// rows x inputs times a weight of outputs x inputs; for Pass::weight, the gradient of that weight.
struct Product {
  double rows, outputs, inputs;
  NumberType type;
  Pass pass = Pass::forward;
  bool grouped = false;  // rows of several experts
};

class Rates {
 public:
  /// `measured` may be empty: then products and attention run at the peaks and memory at its own. Otherwise it must
  /// have whatever is asked for: Error names what is missing. Must outlive this.
  Rates(const ClusterConfig& cluster, const Measurements& measured) : cluster_(cluster), measured_(measured) {}

  /// Seconds. The measured speed is that of the nearest shape (in the logarithm of outputs and inputs) of the same type
  /// and pass; weight gradients of grouped products without one of their own are those of plain products.
  double product(const Product& p) const;
  /// Seconds of `flops` of attention over sequences of `tokens`, at the speed of the nearest length.
  double attention(double flops, double tokens, Pass pass) const;
  /// Seconds of moving `bytes` to and from memory: the mean speed of the elementwise operations.
  double elementwise(double bytes) const;
  double optimizer(double bytes) const;

 private:
  double nearest(const Measurement& wanted) const;
  double mean_bandwidth(const char* test) const;

  const ClusterConfig& cluster_;
  const Measurements& measured_;
};

}  // namespace sluice
