// Measured speeds of operations on one device, for planning, as a JSON file.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

/// One operation. `test` is "product", "grouped" (products of routed rows), "attention", "elementwise" or "optimizer".
struct Measurement {
  std::string test;
  std::string type;                 // "fp8" or "bf16"; "" where it does not matter
  std::string pass;                 // "forward" (and input gradients), "backward" or "weight"; "" likewise
  int64_t outputs = 0, inputs = 0;  // of products: rows and columns of the weight
  int64_t tokens = 0;               // of attention: length of a sequence
  double rate = 0;                  // "flops": FLOP/s; elementwise and optimizer "bytes_per_second": bytes/s
};

struct Measurements {
  std::string device;
  std::vector<Measurement> list;
};

/// Reads {"description", "device", "measurements": [{"test", "type", "pass", "outputs", "inputs", "tokens", "flops" or
/// "bytes_per_second"}, ...]}; other keys of a measurement are ignored. Throws Error "file: field: expected ...".
Measurements parse_measurements(std::string_view json, const std::string& file);

}  // namespace sluice
