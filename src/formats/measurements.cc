#include "formats/measurements.h"

#include <cmath>

#include "base/error.h"
#include "formats/json.h"

namespace sluice {
namespace {

constexpr size_t kMostMeasurements = 10000;

std::string text_or_nothing(const Json& object, const char* key, const std::string& where) {
  return object.contains(key) ? json_string(object, key, where) : "";
}

int64_t size_or_zero(const Json& object, const char* key, const std::string& where) {
  if (!object.contains(key)) return 0;
  const uint64_t value = json_uint(object, key, where);
  if (value >= uint64_t{1} << 31) fail("{}: {}: expected an integer below 2^31, found {}", where, key, value);
  return static_cast<int64_t>(value);
}

double rate_of(const Json& object, const char* key, const std::string& where) {
  if (!object.contains(key) || !object[key].is_number()) fail("{}: {}: expected a number", where, key);
  const double rate = object[key].get<double>();
  if (!std::isfinite(rate) || rate <= 0) fail("{}: {}: expected a number above 0, found {}", where, key, rate);
  return rate;
}

Measurement parse_measurement(const Json& object, const std::string& where) {
  if (!object.is_object()) fail("{}: expected an object, found {}", where, json_excerpt(object));
  Measurement m;
  m.test = json_string(object, "test", where);
  const bool in_bytes = m.test == "elementwise" || m.test == "optimizer";
  if (!in_bytes && m.test != "product" && m.test != "grouped" && m.test != "attention")
    fail("{}: test: expected product, grouped, attention, elementwise or optimizer, found {}", where, m.test);
  m.type = text_or_nothing(object, "type", where);
  m.pass = text_or_nothing(object, "pass", where);
  m.outputs = size_or_zero(object, "outputs", where);
  m.inputs = size_or_zero(object, "inputs", where);
  m.tokens = size_or_zero(object, "tokens", where);
  m.rate = rate_of(object, in_bytes ? "bytes_per_second" : "flops", where);
  return m;
}

}  // namespace

Measurements parse_measurements(std::string_view json, const std::string& file) {
  const Json root = parse_json_object(json, file);
  Measurements result;
  result.device = json_string(root, "device", file);
  if (!root.contains("measurements") || !root["measurements"].is_array())
    fail("{}: measurements: expected a list", file);
  const Json& list = root["measurements"];
  if (list.size() > kMostMeasurements)
    fail("{}: measurements: expected at most {}, found {}", file, kMostMeasurements, list.size());
  for (size_t i = 0; i < list.size(); ++i)
    result.list.push_back(parse_measurement(list[i], fmt::format("{}: measurements[{}]", file, i)));
  return result;
}

}  // namespace sluice
