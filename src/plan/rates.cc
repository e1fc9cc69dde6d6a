#include "plan/rates.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace sluice {
namespace {

const char* pass_name(Pass pass) {
  return pass == Pass::forward ? "forward" : pass == Pass::backward ? "backward" : "weight";
}

const char* type_name(NumberType type) { return type == NumberType::fp8 ? "fp8" : "bf16"; }

/// Distance of two sizes; both 0 where the size does not matter.
double ratio(int64_t a, int64_t b) {
  return std::abs(
      std::log(static_cast<double>(std::max<int64_t>(a, 1)) / static_cast<double>(std::max<int64_t>(b, 1))));
}

}  // namespace

double Rates::nearest(const Measurement& wanted) const {
  double best = std::numeric_limits<double>::infinity(), rate = 0;
  for (const Measurement& m : measured_.list) {
    if (m.test != wanted.test || m.type != wanted.type || m.pass != wanted.pass) continue;
    const double distance =
        ratio(m.outputs, wanted.outputs) + ratio(m.inputs, wanted.inputs) + ratio(m.tokens, wanted.tokens);
    if (distance < best) best = distance, rate = m.rate;
  }
  return rate;
}

double Rates::product(const Product& p) const {
  const double flops = 2 * p.rows * p.outputs * p.inputs;
  if (measured_.list.empty())
    return flops / (1e12 * (p.type == NumberType::fp8 ? cluster_.peak_fp8_tflops : cluster_.peak_bf16_tflops));
  Measurement wanted{.test = p.grouped ? "grouped" : "product", .type = type_name(p.type), .pass = pass_name(p.pass)};
  wanted.outputs = static_cast<int64_t>(p.outputs);
  wanted.inputs = static_cast<int64_t>(p.inputs);
  double rate = nearest(wanted);
  if (rate == 0 && p.grouped && p.pass == Pass::weight) wanted.test = "product", rate = nearest(wanted);
  if (rate == 0) fail("measurements: expected test {}, type {}, pass {}", wanted.test, wanted.type, wanted.pass);
  return flops / rate;
}

double Rates::attention(double flops, double tokens, Pass pass) const {
  if (measured_.list.empty()) return flops / (1e12 * cluster_.peak_bf16_tflops);
  Measurement wanted{.test = "attention", .type = "bf16", .pass = pass_name(pass)};
  wanted.tokens = static_cast<int64_t>(tokens);
  const double rate = nearest(wanted);
  if (rate == 0) fail("measurements: expected test attention, type bf16, pass {}", wanted.pass);
  return flops / rate;
}

double Rates::mean_bandwidth(const char* test) const {
  if (measured_.list.empty()) return 1e9 * cluster_.memory_gb_per_second;
  double sum = 0, count = 0;
  for (const Measurement& m : measured_.list)
    if (m.test == test) sum += m.rate, ++count;
  if (count == 0) fail("measurements: expected test {}", test);
  return sum / count;
}

double Rates::elementwise(double bytes) const { return bytes / mean_bandwidth("elementwise"); }

double Rates::optimizer(double bytes) const { return bytes / mean_bandwidth("optimizer"); }

}  // namespace sluice
