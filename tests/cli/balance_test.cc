// sluice balance: the load of a trained model from each of its three sources, and placements by it.
#include <numeric>

#include "program.h"

namespace sluice {
namespace {

using Loads = std::vector<std::vector<int64_t>>;

/// The arrays of numbers under `key`, one per layer.
Loads arrays(const Outcome& o, const std::string& key) {
  EXPECT_EQ(o.exit_code, 0) << o.err;
  const std::string start = "\"" + key + "\":[";
  Loads out;
  for (size_t at = o.out.find(start); at != std::string::npos; at = o.out.find(start, at)) {
    out.emplace_back();
    for (at += start.size() - 1; o.out[at] != ']';) {
      size_t length = 0;
      out.back().push_back(std::stoll(o.out.substr(at + 1, 20), &length));
      at += 1 + length;
    }
  }
  return out;
}

int64_t sum(const std::vector<int64_t>& values) { return std::accumulate(values.begin(), values.end(), int64_t{0}); }

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A run of 5 steps of 4 sequences of 16 tokens; four experts in two groups, two chosen, in layer 1 and in the module.
class Balance : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    write_file(path("text.txt"), sample_text(20000));
    write_file(path("short.txt"), sample_text(3000, 2));
    write_file(path("model.json"), model_json());
    const Outcome o = sluice({"train", "--data", path("text.txt"), "--model", path("model.json"), "--out", path("run"),
                              "--threads", "1", "steps=5", "seq_len=16", "batch_size=4", "vocab_size=300"});
    ASSERT_EQ(o.exit_code, 0) << o.err;
    write_file(path("spec.json"),
               R"({"groups":4,"layers":[{"layer":"7","load":[90,132,40,61,104,165,39,4,73,56,183,86]},)"
               R"({"layer":"8","load":[20,107,104,64,19,197,187,157,172,86,16,27]}]})");
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }
  static std::string path(const std::string& name) { return (*dir_ / name).string(); }
  static Outcome balance(Words args) {
    args.insert(args.begin(), "balance");
    return sluice(args);
  }

  inline static TempDir* dir_ = nullptr;
};

TEST_F(Balance, PlacesTheExamplesOfTheSpecification) {
  const Words args{"--load", path("spec.json"), "--gpus", "8", "--nodes", "2", "--redundant", "4"};
  Words json = args;
  json.push_back("--json");
  const Outcome o = balance(json);
  EXPECT_EQ(arrays(o, "physical_to_logical"), (Loads{{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1},
                                                     {7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}}));
  EXPECT_TRUE(contains(o.out, R"({"gpus":8,"nodes":2,"groups":4,"redundant":4,"placement":"hierarchical","layers":)"));
  const Outcome table = balance(args);
  // By hand: 56 + 183 and 90 + 132 / 2 of 1033 / 8; 187 + 157 and 187 / 2 + 172 / 2 of 1156 / 8.
  EXPECT_EQ(lines_of(table.out),
            (Words{"experts 12, redundant 4, GPUs 8, nodes 2, hierarchical placement; largest over mean load of a GPU:",
                   "   layer   in order     placed", "       7      1.851      1.208", "       8      2.381      1.242",
                   "    mean      2.116      1.225"}));
}

TEST_F(Balance, OptionsDecideThePlacement) {
  const auto placement = [](const Words& more) {
    Words args{"--load", path("spec.json"), "--gpus", "6", "--json"};
    args.insert(args.end(), more.begin(), more.end());
    return balance(args).out;
  };
  EXPECT_TRUE(contains(placement({"--nodes", "3"}), R"("groups":4,"redundant":0,"placement":"global")"));
  EXPECT_TRUE(contains(placement({"--nodes", "3", "--groups", "6"}), R"("groups":6,"redundant":0,"placement":"hier)"));
}

TEST_F(Balance, SumsWhatARunRecorded) {
  const auto load = [](const std::string& steps) {
    return arrays(balance({"--run", path("run"), "--steps", steps, "--gpus", "2", "--json"}), "load");
  };
  const Loads last = load("1"), all = load("100");
  ASSERT_EQ(last.size(), 2u);
  ASSERT_EQ(all.size(), 2u);
  for (size_t l = 0; l < 2; ++l) {
    EXPECT_EQ(last[l].size(), 4u);
    EXPECT_EQ(sum(all[l]), 5 * sum(last[l]));
  }
  const std::string metrics = read_file(fs::path(path("run")) / "metrics.jsonl");
  const std::string recorded =
      fmt::format("\"expert_load\":[[{}],[{}]]", fmt::join(last[0], ","), fmt::join(last[1], ","));
  EXPECT_GT(metrics.find(recorded), metrics.rfind("\"step\":4")) << recorded;
  EXPECT_TRUE(contains(balance({"--run", path("run"), "--gpus", "2", "--json"}).out, R"("groups":2,)"));
}

TEST_F(Balance, MeasuresOnAText) {
  const auto measure = [](const std::string& threads) {
    return balance({"--model", path("run"), "--data", path("short.txt"), "--ctx", "64", "--gpus", "2", "--redundant",
                    "2", "--nodes", "2", "--json", "--out", path("placement.json"), "--threads", threads});
  };
  const Outcome o = measure("1");
  const Loads load = arrays(o, "load"), places = arrays(o, "physical_to_logical");
  ASSERT_EQ(load.size(), 2u);
  ASSERT_EQ(places.size(), 2u);
  EXPECT_EQ(places[0].size(), 6u);
  EXPECT_TRUE(contains(o.out, R"("groups":2,"redundant":2,"placement":"hierarchical")"));
  EXPECT_TRUE(contains(o.out, R"({"layer":"1",)"));
  EXPECT_TRUE(contains(o.out, R"({"layer":"MTP",)"));
  const Outcome scored = sluice({"score", "--model", path("run"), "--file", path("short.txt"), "--json"});
  const int64_t tokens = std::stoll(scored.out.substr(std::string(R"({"tokens":)").size()));
  // A begin token comes before each piece, and its last token is not computed: as many rows as tokens.
  EXPECT_EQ(sum(load[0]), 2 * tokens);
  EXPECT_EQ(sum(load[0]), sum(load[1]));

  EXPECT_EQ(measure("2").out, o.out);
  EXPECT_EQ(read_file(path("placement.json")), o.out);
  EXPECT_EQ(
      balance({"--load", path("placement.json"), "--gpus", "2", "--redundant", "2", "--nodes", "2", "--json"}).out,
      o.out);
}

TEST_F(Balance, RefusesWhatIsWrong) {
  write_file(path("idle.json"), R"({"layers":[{"layer":"3","load":[0,0]}]})");
  write_file(path("uneven.json"), R"({"layers":[{"layer":"3","load":[1,1]},{"layer":"4","load":[1,1,1]}]})");
  write_file(path("empty.txt"), "");
  fs::create_directory(path("empty"));
  write_file(path("empty/metrics.jsonl"), "");
  const auto with_load = [](const std::string& file, Words more) {
    more.insert(more.begin(), {"--load", path(file)});
    return more;
  };
  const std::pair<Words, Words> cases[] = {
      {{"--run", path("run")}, {"--gpus is required"}},
      {{"--gpus", "2"}, {"balance: expected --model and --data, --run or --load"}},
      {{"--model", path("run"), "--gpus", "2"}, {"--model requires --data"}},
      {{"--data", path("text.txt"), "--gpus", "2"}, {"--data requires --model"}},
      {{"--run", path("run"), "--load", path("spec.json"), "--gpus", "2"}, {"--run excludes --load"}},
      {{"--run", path("nowhere"), "--gpus", "2"}, {"nowhere/metrics.jsonl: cannot open"}},
      {{"--run", path("empty"), "--gpus", "2"}, {"empty: expected steps with a load of experts in metrics.jsonl"}},
      {{"--model", path("run"), "--data", path("empty.txt"), "--gpus", "2"}, {"empty.txt: expected at least 2 tokens"}},
      {with_load("spec.json", {"--gpus", "0"}), {"--gpus: Value 0 not in range"}},
      {with_load("spec.json", {"--gpus", "x"}), {"--gpus", "x"}},
      {with_load("spec.json", {"--gpus", "5"}), {"expected a multiple of the 5 GPUs from 12 to 65536, found 12"}},
      {with_load("spec.json", {"--gpus", "4", "--nodes", "3"}), {"GPUs: expected a multiple of the 3 nodes, found 4"}},
      {with_load("spec.json", {"--gpus", "4", "--groups", "5"}), {"groups: expected a divisor of the 12 experts"}},
      {with_load("spec.json", {"--gpus", "4", "--redundant", "65536"}), {"from 12 to 65536, found 65548"}},
      {with_load("spec.json", {"--gpus", "4", "--out", path("nowhere/x")}), {"nowhere/x", "No such file"}},
      {with_load("idle.json", {"--gpus", "2"}), {"layer 3: expected a load of experts, found none"}},
      {with_load("uneven.json", {"--gpus", "2"}), {"layer 4: expected 2 experts as in the first layer, found 3"}},
      {with_load("text.txt", {"--gpus", "2"}), {"text.txt: malformed JSON"}},
      {with_load("run", {"--gpus", "2"}), {"run: "}},
  };
  for (const auto& [args, parts] : cases) expect_user_error(balance(args), parts);
}

}  // namespace
}  // namespace sluice
