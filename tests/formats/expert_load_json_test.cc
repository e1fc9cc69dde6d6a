#include "formats/expert_load_json.h"

#include <gtest/gtest.h>

#include "../base/temp_dir.h"

namespace sluice {
namespace {

TEST(ExpertLoadJson, ReadsLoadsAndNothingElse) {
  const ModelLoad load = parse_model_load(
      R"({"gpus": 2, "groups": 2, "layers": [{"layer": "1", "load": [1, 0, 1099511627776, 4], "x": [-1]},
          {"load": [5], "layer": "MTP"}]})",
      "f");
  EXPECT_EQ(load.groups, 2);
  ASSERT_EQ(load.layers.size(), 2u);
  EXPECT_EQ(load.layers[0].layer, "1");
  EXPECT_EQ(load.layers[0].tokens, (std::vector<int64_t>{1, 0, int64_t{1} << 40, 4}));
  EXPECT_EQ(load.layers[1].layer, "MTP");
  EXPECT_EQ(load.layers[1].tokens, std::vector<int64_t>{5});
  EXPECT_EQ(parse_model_load(R"({"layers":[{"layer":"1","load":[2]}]})", "f").groups, 1);
}

TEST(ExpertLoadJson, RefusesOtherFiles) {
  const auto layer = [](const std::string& fields) {
    return R"({"layers":[{"layer":"1","load":[2]},{)" + fields + "}]}";
  };
  std::string many = "0";
  for (int i = 0; i < 65536; ++i) many += ",0";
  const std::pair<std::string, const char*> cases[] = {
      {"", "f: malformed JSON"},
      {"[]", "f: expected a JSON object"},
      {"{}", "f: layers: expected an array, found nothing"},
      {R"({"layers":{}})", "f: layers: expected an array of some, found {}"},
      {R"({"layers":[]})", "f: layers: expected an array of some, found []"},
      {R"({"layers":[3]})", "f: layers[0]: expected an object, found 3"},
      {R"({"groups":0,"layers":[]})", "f: groups: expected 1 to 65536, found 0"},
      {R"({"groups":"2","layers":[]})", "f: groups: expected an integer >= 0, found \"2\""},
      {R"({"groups":99999999999,"layers":[]})", "f: groups: expected 1 to 65536, found 99999999999"},
      {layer(R"("load":[2])"), "f: layers[1]: layer: expected a string, found nothing"},
      {layer(R"("layer":2,"load":[2])"), "f: layers[1]: layer: expected a string, found 2"},
      {layer(R"("layer":"2")"), "f: layers[1]: load: expected an array, found nothing"},
      {layer(R"("layer":"2","load":[])"), "f: layers[1]: load: expected an array of some, found []"},
      {layer(R"("layer":"2","load":[-1])"), "f: layers[1]: load: expected counts from 0 to 2^40, found -1"},
      {layer(R"("layer":"2","load":[0.5])"), "f: layers[1]: load: expected counts from 0 to 2^40, found 0.5"},
      {layer(R"("layer":"2","load":[1099511627777])"), "expected counts from 0 to 2^40, found 1099511627777"},
      {layer(R"("layer":"2","load":[)" + many + "]"), "f: layers: expected at most 65536 values of load"},
      {std::string(100000, '['), "nested deeper"},
  };
  for (const auto& [text, part] : cases) {
    const std::string error = error_of([&, &t = text] { parse_model_load(t, "f"); });
    EXPECT_NE(error.find(part), std::string::npos) << text.substr(0, 200) << "\n  gives: " << error;
  }
}

TEST(ExpertLoadJson, ReadsPlacesAndNothingElse) {
  const ModelPlaces places = parse_model_places(
      R"({"gpus": 2, "layers": [{"layer": "1", "load": [1, 2], "physical_to_logical": [1, 0, 1, 65535]}]})", "f");
  EXPECT_EQ(places.gpus, 2);
  ASSERT_EQ(places.layers.size(), 1u);
  EXPECT_EQ(places.layers[0].layer, "1");
  EXPECT_EQ(places.layers[0].experts, (std::vector<int32_t>{1, 0, 1, 65535}));
  const std::pair<std::string, const char*> cases[] = {
      {R"({"layers":[]})", "f: gpus: expected an integer >= 0, found nothing"},
      {R"({"gpus":0,"layers":[]})", "f: gpus: expected 1 to 65536, found 0"},
      {R"({"gpus":1,"layers":[]})", "f: layers: expected an array of some, found []"},
      {R"({"gpus":1,"layers":[{"layer":"1","load":[2]}]})", "f: layers[0]: physical_to_logical: expected an array"},
      {R"({"gpus":1,"layers":[{"layer":"1","physical_to_logical":[-1]}]})",
       "expected experts from 0 to 65535, found -1"},
      {R"({"gpus":1,"layers":[{"layer":"1","physical_to_logical":[65536]}]})", "from 0 to 65535, found 65536"},
  };
  for (const auto& [text, part] : cases) {
    const std::string error = error_of([&, &t = text] { parse_model_places(t, "f"); });
    EXPECT_NE(error.find(part), std::string::npos) << text << "\n  gives: " << error;
  }
}

}  // namespace
}  // namespace sluice
