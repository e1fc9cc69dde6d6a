// What ranks send to each other in a step is what the formulas of docs/benchmarks.md say, to the byte.
#include <gtest/gtest.h>

#include "../cli/program.h"
#include "launcher.h"
#include "model/checkpoint.h"

namespace sluice {
namespace {

constexpr int64_t kSteps = 3, kRows = 8, kMicro = 2, kSequence = 32;

class RankTraffic : public testing::Test {
 protected:
  static void SetUpTestSuite() { allow_many_ranks(); }
  RankTraffic() {
    write_file(dir_ / "text.txt", sample_text(60000));
    // Every token goes to every expert, so that it is known how many rows go to other ranks.
    std::string json = model_json();
    const auto set = [&](const std::string& from, const std::string& to) {
      json.replace(json.find(from), from.size(), to);
    };
    set("\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 4");
    set("\"n_group\": 2", "\"n_group\": 1");
    write_file(dir_ / "model.json", json);
  }

  TrafficMetrics traffic(int ranks, const Words& keys) {
    const fs::path run = dir_ / fmt::format("run{}", ++runs_);
    Words words{"train",
                "--data",
                dir_ / "text.txt",
                "--model",
                dir_ / "model.json",
                "--out",
                run,
                "vocab_size=300",
                "threads=1",
                "eval_every=0",
                "save_every=1",
                fmt::format("seq_len={}", kSequence),
                fmt::format("batch_size={}", kRows),
                fmt::format("micro_batch={}", kMicro),
                fmt::format("steps={}", kSteps)};
    words.insert(words.end(), keys.begin(), keys.end());
    const Outcome o = sluice(words, {{"mpirun", "-n", std::to_string(ranks)}, RLIM_INFINITY});
    EXPECT_EQ(o.exit_code, 0) << o.err;
    config_ = load_config(run / "latest");
    std::optional<TrafficMetrics> found;
    for (const std::string& line : lines_of(read_file(run / "metrics.jsonl")))
      if (const MetricsLine m = parse_metrics_line(line, run); std::holds_alternative<TrafficMetrics>(m))
        found = std::get<TrafficMetrics>(m);
    EXPECT_TRUE(found.has_value()) << run;
    EXPECT_EQ(found->steps, kSteps);
    EXPECT_EQ(found->tokens, kSteps * kRows * kSequence);
    return *found;
  }
  /// Bytes of float32 in the parameters for which `is_meant` holds, router biases left out.
  int64_t bytes(const std::function<bool(const Param&)>& is_meant) const {
    ModelWeights shapes = weight_shapes(config_, config_.num_nextn_predict_layers);
    int64_t sum = 0;
    for (const Param& p : parameters(shapes))
      if (p.kind != ParamKind::router_bias && is_meant(p)) sum += 4 * p.matrix->size();
    return sum;
  }
  /// Rows of all sequences of a step in the main model; in an MTP module each is one shorter.
  static constexpr int64_t kTokens = kRows * kSequence, kMtpTokens = kTokens - kRows;
  /// Of layers with experts, one in the main model and one in the MTP module.
  int64_t expert_bytes(int64_t ranks) const {
    const int64_t K = config_.num_experts_per_tok, D = config_.hidden_size, E = config_.n_routed_experts;
    const int64_t rows = (kTokens + kMtpTokens) * K * (ranks - 1) / ranks;
    const int64_t counts =
        2 * (kRows / kMicro) * (ranks - 1) * E * 8;  // tokens for each expert to every rank, ahead of the rows
    return rows * D * 4 * 4 + counts;                // there and back, in both passes
  }

  TempDir dir_;
  HfConfig config_;
  int runs_ = 0;
};

TEST_F(RankTraffic, DataParallelGradientsAndWeightsGoOnce) {
  const TrafficMetrics t = traffic(2, {});
  const int64_t all = bytes([](const Param&) { return true; });
  EXPECT_EQ(t.gradients, kSteps * all);
  EXPECT_EQ(t.weights, kSteps * all);
  EXPECT_EQ(t.experts, 0);
  EXPECT_EQ(t.stages, 0);
  EXPECT_EQ(traffic(4, {}).gradients, 3 * t.gradients);
}

TEST_F(RankTraffic, RowsGoToExpertsAndBackInBothPasses) {
  for (const int ranks : {2, 4}) {
    const TrafficMetrics t = traffic(ranks, {fmt::format("expert_parallel={}", ranks)});
    EXPECT_EQ(t.experts, kSteps * expert_bytes(ranks));
    EXPECT_EQ(t.gradients, kSteps * (ranks - 1) * bytes([](const Param& p) { return p.expert < 0; }));
    EXPECT_EQ(t.stages, 0);
  }
}

TEST_F(RankTraffic, StagesExchangeOneTensorPerPass) {
  for (const char* schedule : {"1f1b", "zb1p", "dualpipe"}) {
    const TrafficMetrics t = traffic(2, {"pipeline_parallel=2", fmt::format("schedule={}", schedule)});
    EXPECT_EQ(t.stages, kSteps * 2 * kTokens * config_.hidden_size * 4) << schedule;
    EXPECT_EQ(t.experts, 0);
    // Both ends of a pipeline have the embedding, because of the MTP module; with DualPipe both ranks have everything.
    const bool is_all = std::string(schedule) == "dualpipe";
    EXPECT_EQ(t.gradients, kSteps * bytes([&](const Param& p) { return is_all || p.kind == ParamKind::embedding; }))
        << schedule;
  }
}

TEST_F(RankTraffic, OfAllTogether) {
  const TrafficMetrics t = traffic(8, {"pipeline_parallel=2", "expert_parallel=2"});
  EXPECT_EQ(t.stages, kSteps * 2 * kTokens * config_.hidden_size * 4);
  EXPECT_EQ(t.experts, kSteps * expert_bytes(2));
  const int64_t routed = bytes([](const Param&p) { return p.expert >= 0; }),
                embedding = bytes([](const Param&p) { return p.kind == ParamKind::embedding; }),
                all = bytes([](const Param&) { return true; });
  EXPECT_EQ(t.gradients, kSteps * (routed * 1 + embedding * 7 + (all - routed - embedding) * 3));
  EXPECT_EQ(t.weights, t.gradients);
}

}  // namespace
}  // namespace sluice
