// init and inspect.
#include "program.h"

namespace sluice {
namespace {

const fs::path kModels = fs::path(SLUICE_SOURCE_DIR) / "configs/models";

TEST(Inspect, CountsTheReleasedModelExactly) {
  const Outcome text = sluice({"inspect", kModels / "deepseek-v3-671b.json"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  for (const char* number :
       {"671,026,419,200", "682,636,487,424", "684,489,845,504", "36,625,618,432", "37,552,297,472", "70,272"})
    EXPECT_NE(text.out.find(number), std::string::npos) << number << "\n" << text.out;

  const Outcome json = sluice({"inspect", "--json", kModels / "deepseek-v3-671b.json"});
  EXPECT_EQ(json.exit_code, 0) << json.err;
  for (const char* field :
       {R"("parameters":671026419200)", R"("parameters_with_mtp":682636487424)", R"("parameters_stored":684489845504)",
        R"("active":36625618432)", R"("active_with_embedding":37552297472)", R"("kv_cache_bytes_per_token":70272)"})
    EXPECT_NE(json.out.find(field), std::string::npos) << field << "\n" << json.out;
}

TEST(Inspect, CountsEveryBundledShape) {
  int shapes = 0;
  for (const auto& entry : fs::directory_iterator(kModels)) {
    EXPECT_EQ(sluice({"inspect", entry.path()}).exit_code, 0) << entry.path();
    ++shapes;
  }
  EXPECT_GE(shapes, 4);
}

class Init : public testing::TestWithParam<const char*> {
 protected:
  Init() { write_file(dir_ / "model.json", model_json()); }
  Outcome init(const std::string& out, const std::string& seed = "5") const {
    return sluice({"init", "--config", dir_ / "model.json", "--type", GetParam(), "--seed", seed, "--out", dir_ / out,
                   "--threads", out == "b" ? "2" : "1"});
  }
  std::string weights(const std::string& out) const { return read_file(dir_ / out / "model.safetensors"); }
  TempDir dir_;
};

TEST_P(Init, IsRepeatableAndLoads) {
  ASSERT_EQ(init("a").exit_code, 0);
  ASSERT_EQ(init("b").exit_code, 0);
  ASSERT_EQ(init("c", "6").exit_code, 0);
  EXPECT_TRUE(weights("a") == weights("b"));
  EXPECT_FALSE(weights("a") == weights("c"));
  EXPECT_EQ(read_file(dir_ / "a/config.json"), read_file(dir_ / "b/config.json"));

  const Outcome inspected = sluice({"inspect", "--json", dir_ / "a"});
  EXPECT_EQ(inspected.exit_code, 0) << inspected.err;
  EXPECT_NE(inspected.out.find(R"("mtp_modules":1)"), std::string::npos) << inspected.out;
  const std::string dtype = GetParam() == std::string("f32")    ? "F32"
                            : GetParam() == std::string("bf16") ? "BF16"
                                                                : "F8_E4M3";
  EXPECT_NE(inspected.out.find("\"" + dtype + "\":"), std::string::npos) << inspected.out;
  const Outcome scored = sluice({"score", "--model", dir_ / "a", "--ids", "1,2,3,4", "--json", "--threads", "1"});
  EXPECT_EQ(scored.exit_code, 0) << scored.err;

  expect_user_error(init("a"), {"expected a folder that does not exist or is empty"});
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Init, testing::Values("f32", "bf16", "fp8"));

}  // namespace
}  // namespace sluice
