// A run on several ranks is the run on one: losses, expert counts, biases; and a checkpoint of one goes on on others.
#include <gtest/gtest.h>

#include <cmath>

#include "../cli/program.h"
#include "base/file.h"
#include "launcher.h"
#include "formats/safetensors.h"

namespace sluice {
namespace {

constexpr int64_t kSteps = 20;

class EqualTraining : public testing::Test {
 protected:
  static void SetUpTestSuite() { allow_many_ranks(); }
  EqualTraining() {
    write_file(dir_ / "text.txt", sample_text(60000));
    train(1, "tokenizer", {"steps=1"});  // the same for all runs
    tokenizer_ = dir_ / "tokenizer/tokenizer";
  }

  /// `sluice WORDS` on so many ranks.
  Outcome on_ranks(int ranks, const Words& words) const {
    Launch launch;
    if (ranks > 1) launch.wrapper = {"mpirun", "-n", std::to_string(ranks)};
    return sluice(words, launch);
  }
  fs::path train(int ranks, const std::string& name, const Words& more) const {
    Words words{"train",         "--data",          dir_ / "text.txt", "--size",       "tiny",
                "--out",         dir_ / name,       "vocab_size=300",  "seq_len=32",   "batch_size=8",
                "micro_batch=2", "warmup_steps=2",  "threads=1",       "eval_every=0", "save_every=10",
                "keep_last=9",   "bias_speed=1e-3", "lr=1e-3"};
    if (!tokenizer_.empty()) words.insert(words.end(), {"--tokenizer", tokenizer_, "--steps", std::to_string(kSteps)});
    words.insert(words.end(), more.begin(), more.end());
    const Outcome o = on_ranks(ranks, words);
    EXPECT_EQ(o.exit_code, 0) << o.err;
    return dir_ / name;
  }
  /// Of the checkpoint `where`, those whose names end so.
  static std::vector<float> values_of(const fs::path& where, const std::string& end) {
    std::vector<float> all;
    const SafetensorsFolder files(where);
    for (const SafetensorsEntry* e : files.entries()) {
      if (!e->name.ends_with(end)) continue;
      std::vector<float> values = e->read_f32();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }
  static std::vector<float> biases_of(const fs::path& run) {
    return values_of(run / "latest", "e_score_correction_bias");
  }
  static void expect_near(const fs::path& a, const fs::path& b) {
    for (const char* end : {"e_score_correction_bias", "weight"}) {
      const std::vector<float> x = values_of(a, end), y = values_of(b, end);
      ASSERT_EQ(x.size(), y.size());
      double difference = 0, norm = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        difference += std::pow(static_cast<double>(x[i]) - y[i], 2);
        norm += std::pow(static_cast<double>(y[i]), 2);
      }
      EXPECT_LT(std::sqrt(difference), 1e-3 * std::sqrt(norm)) << a << " " << end;
    }
  }
  static void expect_equal(const fs::path& run, const fs::path& one, double tolerance) {
    const std::vector<StepMetrics> a = steps_of(run), b = steps_of(one);
    ASSERT_EQ(a.size(), static_cast<size_t>(kSteps)) << run;
    ASSERT_EQ(b.size(), a.size());
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_NEAR(a[i].loss_main, b[i].loss_main, tolerance * b[i].loss_main) << run << " step " << i + 1;
      EXPECT_NEAR(*a[i].loss_mtp, *b[i].loss_mtp, tolerance * *b[i].loss_mtp) << run << " step " << i + 1;
      EXPECT_EQ(a[i].tokens, b[i].tokens);
      if (tolerance < 1e-4) {
        EXPECT_NEAR(a[i].grad_norm, b[i].grad_norm, 1e-3 * b[i].grad_norm) << run << " step " << i + 1;
      }
      if (tolerance < 1e-4) {
        EXPECT_EQ(a[i].expert_load, b[i].expert_load) << run << " step " << i + 1;
      }
    }
    if (tolerance < 1e-4) {
      EXPECT_EQ(biases_of(run), biases_of(one)) << run;
    }
  }

  TempDir dir_;
  std::string tokenizer_;
};

TEST_F(EqualTraining, DataAndExpertParallelRunsAreThatOfOneRank) {
  const fs::path one = train(1, "one", {"ema_decay=0.9"});
  EXPECT_FALSE(biases_of(one).empty());
  expect_equal(train(2, "dp2", {}), one, 1e-5);
  expect_equal(train(2, "ep2", {"expert_parallel=2"}), one, 1e-5);
  expect_equal(train(4, "ep4", {"expert_parallel=4", "recompute=true"}), one, 1e-5);
  const fs::path averaged = train(4, "dp2ep2", {"expert_parallel=2", "ema_decay=0.9"});
  expect_equal(averaged, one, 1e-5);
  expect_near(averaged / "latest", one / "latest");
  expect_near(averaged / "latest/ema", one / "latest/ema");
}

TEST_F(EqualTraining, PipelinesAreThatOfOneRank) {
  const Words more{"batch_size=16", "micro_batch=2"};  // 8 micro-batches
  const fs::path one = train(1, "one", more);
  const auto pipeline = [&](int ranks, int stages, const char* schedule, const Words& other) {
    Words words = more;
    words.insert(words.end(), {fmt::format("pipeline_parallel={}", stages), fmt::format("schedule={}", schedule)});
    words.insert(words.end(), other.begin(), other.end());
    expect_equal(train(ranks, fmt::format("{}-{}-{}", schedule, stages, ranks), words), one, 1e-5);
  };
  pipeline(2, 2, "1f1b", {});
  pipeline(4, 4, "zb1p", {"recompute=true"});
  pipeline(4, 4, "dualpipe", {});
  pipeline(2, 2, "dualpipev", {"ema_decay=0.9"});
  pipeline(8, 2, "1f1b", {"expert_parallel=2"});  // two parts of the data on each of two stages' halves of the experts
}

// An overlapped pair computes while rows of the other micro-batch are on their way to experts on other ranks.
TEST_F(EqualTraining, PairsThatExchangeRowsAreThatOfOneRank) {
  const Words more{"batch_size=16", "micro_batch=1"};
  const fs::path one = train(1, "one", more);
  const auto pairs = [&](int ranks, const char* schedule, const Words& other) {
    Words words = more;
    words.insert(words.end(), {"pipeline_parallel=2", "expert_parallel=2", fmt::format("schedule={}", schedule)});
    words.insert(words.end(), other.begin(), other.end());
    expect_equal(train(ranks, fmt::format("{}-{}", schedule, ranks), words), one, 1e-5);
  };
  pairs(4, "dualpipe", {});
  pairs(8, "dualpipe", {"recompute=true"});
  pairs(4, "dualpipev", {});
}

TEST_F(EqualTraining, RowsThatComeInRoundsAreTheSame) {
  const fs::path one = train(1, "one", {});
  expect_equal(train(4, "ep4", {"expert_parallel=4", "expert_capacity=0.3"}), one, 1e-5);
  expect_equal(train(2, "ep2", {"expert_parallel=2", "expert_capacity=0.7", "recompute=true"}), one, 1e-5);
  const auto pipeline = [&](const char* name, const Words& more) {
    Words words{"pipeline_parallel=2", "expert_parallel=2", "micro_batch=1"};
    words.insert(words.end(), more.begin(), more.end());
    expect_equal(train(4, name, words), one, 1e-5);
  };
  pipeline("zb1p", {"schedule=zb1p", "expert_capacity=1"});
  pipeline("dualpipe", {"schedule=dualpipe", "expert_capacity=0.4", "recompute=true"});
}

TEST_F(EqualTraining, RowsInFewerBitsGiveNearlyTheSameLosses) {
  const fs::path one = train(1, "one", {"lr=1e-4"});
  for (const char* back : {"same", "bf16"}) {
    const fs::path run = train(
        2, back, {"lr=1e-4", "expert_parallel=2", "dispatch_payload=fp8", fmt::format("combine_payload={}", back)});
    const std::vector<StepMetrics> a = steps_of(run), b = steps_of(one);
    ASSERT_EQ(a.size(), b.size());
    EXPECT_NE(a.back().loss_main, b.back().loss_main) << "nothing was rounded";
    for (size_t i = 0; i < a.size(); ++i)
      EXPECT_NEAR(a[i].loss_main, b[i].loss_main, 2e-3 * b[i].loss_main) << back << " step " << i + 1;
  }
}

TEST_F(EqualTraining, InFp8WithinItsNoise) {
  const fs::path one = train(1, "one", {"--precision", "fp8"});
  expect_equal(train(4, "dp2ep2", {"expert_parallel=2", "--precision", "fp8"}), one, 1e-2);
}

TEST_F(EqualTraining, ACheckpointGoesOnOnOtherRanks) {
  const fs::path four = train(4, "four", {"expert_parallel=2"});
  const auto goes_on = [&](int ranks, const Words& layout) {
    const fs::path run = dir_ / fmt::format("on{}", ranks);
    fs::copy(four, run, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
    if (ranks == 2)  // a part that is torn makes all of it so
      fs::resize_file(run / "step-00000020/trainer/state-00002-of-00004.safetensors", 1000);
    else
      fs::remove_all(run / "step-00000020");
    Words words{"train", "--resume", run};
    words.insert(words.end(), layout.begin(), layout.end());
    const Outcome o = on_ranks(ranks, words);
    ASSERT_EQ(o.exit_code, 0) << o.err;
    expect_equal(run, four, 1e-5);
  };
  goes_on(1, {"expert_parallel=1"});
  goes_on(2, {"expert_parallel=1", "pipeline_parallel=2", "schedule=zb1p"});
  goes_on(8, {"expert_parallel=8"});

  // What four ranks wrote is a checkpoint like any other, and a plain folder in the end.
  for (const char* stem : {"model", "trainer/state"})
    for (size_t r = 0; r < 4; ++r) EXPECT_TRUE(fs::exists(four / "latest" / shard_name(stem, r, 4)));
  const Outcome o = sluice({"convert", four, "--out", dir_ / "plain"});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  EXPECT_TRUE(fs::exists(dir_ / "plain/model.safetensors"));
  EXPECT_EQ(values_of(dir_ / "plain", ""), values_of(four / "latest", ""));
}

// The file rounds routers, which are computed with in float32: all ranks must go on from the masters.
TEST_F(EqualTraining, ACheckpointInFp8GoesOnAsItWas) {
  const fs::path two = train(2, "two", {"--precision", "fp8"}), again = dir_ / "again";
  fs::copy(two, again, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  fs::remove_all(again / "step-00000020");
  const Outcome o = on_ranks(2, {"train", "--resume", again});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  const std::vector<StepMetrics> a = steps_of(two), b = steps_of(again);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i].expert_load, b[i].expert_load) << i + 1;
}

TEST_F(EqualTraining, WhatDoesNotDivideIsOneLine) {
  const Words words{"train", "--data",    dir_ / "text.txt", "--tokenizer", tokenizer_,
                    "--out", dir_ / "no", "--steps",         "1",           "threads=1"};
  const auto refused = [&](int ranks, const Words& more, const char* part) {
    Words all = words;
    all.insert(all.end(), more.begin(), more.end());
    const Outcome o = on_ranks(ranks, all);
    EXPECT_EQ(o.exit_code, 2) << o.err;
    EXPECT_NE(o.err.find(part), std::string::npos) << o.err;
  };
  refused(2, {"batch_size=3"}, "batch_size: expected a multiple of the 2 ranks that share it, found 3");
  refused(2, {"expert_parallel=3"}, "expert_parallel: expected a divisor of the 2 ranks");
  refused(2, {"batch_start=2", "batch_ramp=0.5"}, "batch_start: expected 0 with several ranks");
  refused(1, {"expert_parallel=2"}, "expert_parallel: expected 2 ranks");
  refused(1, {"pipeline_parallel=2"}, "pipeline_parallel: expected 2 ranks");
  refused(2, {"expert_parallel=2", "dispatch_payload=fp4"}, "dispatch_payload: expected same or fp8, found fp4");
  refused(2, {"expert_parallel=2", "combine_payload=fp8"}, "combine_payload: expected same or bf16, found fp8");
  refused(2, {"expert_parallel=2", "expert_capacity=0"}, "expert_capacity: expected a number above 0");
  refused(2, {"pipeline_parallel=2", "schedule=gpipe"}, "schedule: expected");
  refused(2, {"pipeline_parallel=2", "schedule=dualpipe", "batch_size=4", "micro_batch=2"}, "dualpipe");
  refused(2, {"pipeline_parallel=2", "batch_size=8", "micro_batch=3"}, "micro_batch: expected a divisor of the 8");
}

}  // namespace
}  // namespace sluice
