// A text that several ranks write together, each with some of the experts, is that of one rank.
#include <gtest/gtest.h>

#include "../cli/program.h"
#include "base/file.h"
#include "launcher.h"

namespace sluice {
namespace {

class Generate : public testing::Test {
 protected:
  static void SetUpTestSuite() { allow_many_ranks(); }
  Generate() {
    write_file(dir_ / "text.txt", sample_text(20000));
    const Outcome o =
        sluice({"train", "--data", dir_ / "text.txt", "--size", "tiny", "--out", dir_ / "run", "vocab_size=300",
                "seq_len=32", "batch_size=4", "micro_batch=4", "eval_every=0", "steps=4", "threads=1"});
    EXPECT_EQ(o.exit_code, 0) << o.err;
  }
  Outcome generate(int ranks, const Words& more) const {
    Launch launch;
    if (ranks > 1) launch.wrapper = {"mpirun", "-n", std::to_string(ranks)};
    Words words{"generate", "--model", dir_ / "run", "--prompt", "The", "--max-tokens", "40", "--seed", "7"};
    words.insert(words.end(), more.begin(), more.end());
    return sluice(words, launch);
  }
  std::string text(int ranks, const Words& more = {}) const {
    const Outcome o = generate(ranks, more);
    EXPECT_EQ(o.exit_code, 0) << o.err;
    return o.out;
  }
  std::string placement(int ranks, int redundant) const {
    const fs::path file = dir_ / fmt::format("placement{}.json", ranks);
    const Outcome o = sluice({"balance", "--model", dir_ / "run", "--data", dir_ / "text.txt", "--gpus",
                              std::to_string(ranks), "--redundant", std::to_string(redundant), "--out", file});
    EXPECT_EQ(o.exit_code, 0) << o.err;
    return file;
  }

  TempDir dir_;
};

TEST_F(Generate, SeveralRanksWriteTheTextOfOne) {
  const std::string one = text(1);
  EXPECT_GT(one.size(), 40u);
  EXPECT_EQ(text(2), one);
  EXPECT_EQ(text(4), one);
  EXPECT_EQ(text(2, {"--draft", "on"}), one);
  EXPECT_EQ(text(4, {"--placement", placement(4, 8)}), one);
}

TEST_F(Generate, APlacementForOthersIsRefused) {
  const auto refused = [&](const Words& more, const std::string& part) {
    const Outcome o = generate(2, more);
    EXPECT_EQ(o.exit_code, 2) << o.err;
    EXPECT_NE(o.err.find(part), std::string::npos) << o.err;
  };
  refused({"--placement", placement(4, 0)}, "gpus: expected the 2 ranks, found 4");
  refused({"--memory", "1GiB"}, "--memory: expected none with several ranks");
  const auto places = [&](const std::string& layers) {
    write_file(dir_ / "p.json", R"({"gpus":2,"layers":[)" + layers + "]}");
    return dir_ / "p.json";
  };
  refused({"--placement", places(R"({"layer":"7","physical_to_logical":[0]})")}, "expected one \"1\", found none");
  std::string layers;
  for (const int l : {1, 2, 3})
    layers += fmt::format(R"({}{{"layer":"{}","physical_to_logical":[0,1]}})", l > 1 ? "," : "", l);
  refused({"--placement", places(layers)}, "experts: expected a place for each, found none of expert 2");
}

}  // namespace
}  // namespace sluice
