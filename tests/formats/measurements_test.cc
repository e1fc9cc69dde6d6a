#include "formats/measurements.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace sluice {
namespace {

std::string with(const std::string& measurement) {
  return R"({"description": "x", "device": "GPU", "measurements": [)" + measurement + "]}";
}

TEST(Measurements, ReadsFigures) {
  const Measurements m = parse_measurements(
      with(
          R"({"test": "product", "type": "fp8", "pass": "weight", "rows": 4096, "outputs": 3, "inputs": 5, "flops": 2e12},
              {"test": "elementwise", "name": "copy", "bytes_per_second": 7})"),
      "m.json");
  EXPECT_EQ(m.device, "GPU");
  ASSERT_EQ(m.list.size(), 2u);
  EXPECT_EQ(m.list[0].test, "product");
  EXPECT_EQ(m.list[0].type, "fp8");
  EXPECT_EQ(m.list[0].pass, "weight");
  EXPECT_EQ(m.list[0].outputs, 3);
  EXPECT_EQ(m.list[0].inputs, 5);
  EXPECT_EQ(m.list[0].rate, 2e12);
  EXPECT_EQ(m.list[1].rate, 7);
}

TEST(Measurements, RefusesOtherFiles) {
  const std::pair<std::string, const char*> cases[] = {
      {"", "m.json: malformed JSON"},
      {"[]", "m.json: "},
      {"{}", "m.json: device: "},
      {R"({"device": "x"})", "m.json: measurements: expected a list"},
      {with("5"), "m.json: measurements[0]: expected an object, found 5"},
      {with(R"({"test": "sort", "flops": 1})"), "m.json: measurements[0]: test: expected product"},
      {with(R"({"test": "product"})"), "m.json: measurements[0]: flops: expected a number"},
      {with(R"({"test": "product", "flops": 0})"),
       "m.json: measurements[0]: flops: expected a number above 0, found 0"},
      {with(R"({"test": "elementwise", "flops": 1})"), "m.json: measurements[0]: bytes_per_second: expected a number"},
      {with(R"({"test": "product", "flops": 1, "outputs": -1})"), "m.json: measurements[0]: outputs: "},
      {with(R"({"test": "product", "flops": 1, "outputs": 4294967296})"), "outputs: expected an integer below 2^31"},
      {with(R"({"test": "product", "flops": 1, "type": 8})"), "m.json: measurements[0]: type: "},
  };
  for (const auto& [text, part] : cases) {
    try {
      parse_measurements(text, "m.json");
      ADD_FAILURE() << "accepted " << text;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace sluice
