#include "train/config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>

#include "../base/temp_dir.h"

namespace sluice {
namespace {

TrainConfig minimal() {
  TrainConfig c;
  c.data = {"text.txt"};
  c.out = "out";
  c.steps = 100;
  return c;
}

TEST(TrainConfig, ListsEveryFieldOnce) {
  std::set<std::string> names;
  TrainConfig c;
  c.visit([&](const std::string& name, auto&) { EXPECT_TRUE(names.insert(name).second) << name; });
  const std::string text = format_config(c);
  EXPECT_EQ(static_cast<size_t>(std::count(text.begin(), text.end(), '\n')), names.size());
  EXPECT_EQ(text.substr(0, 9), "data: []\n");
}

TEST(TrainConfig, WritesYaml) {
  TrainConfig c = minimal();
  c.data = {"a b.txt", "quote\".txt", "back\\slash"};
  c.sample_prompt = "two\nlines";
  c.lr = 1e-3;
  c.recompute = true;
  const std::string text = format_config(c);
  for (const char* line :
       {"data: [\"a b.txt\", \"quote\\\".txt\", \"back\\\\slash\"]\n", "sample_prompt: \"two\\nlines\"\n",
        "lr: 0.001\n", "recompute: true\n", "steps: 100\n", "tokenizer: \"\"\n"})
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
}

TEST(TrainConfig, ChecksEveryRange) {
  EXPECT_EQ(error_of([] { check_config(minimal()); }), "");
  struct Case {
    std::function<void(TrainConfig&)> change;
    const char* message;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  const std::vector<Case> cases{
      {[](auto& c) { c.data.clear(); }, "data: expected"},
      {[](auto& c) { c.out.clear(); }, "out: expected"},
      {[](auto& c) { c.steps = 0; }, "steps: expected a number of steps or a time budget (time), found nothing"},
      {[](auto& c) { c.steps = -3; }, "steps: expected an integer from 0, found -3"},
      {[](auto& c) { c.time = "5 years"; }, "time: expected a duration such as 90s, 30m or 2h, found 5 years"},
      {[](auto& c) { c.seq_len = 0; }, "seq_len: expected an integer from 1, found 0"},
      {[](auto& c) { c.seq_len = INT64_MAX; }, "seq_len: expected"},
      {[](auto& c) { c.batch_size = INT64_MIN; }, "batch_size: expected"},
      {[](auto& c) { c.batch_size = c.micro_batch = INT32_MAX; },
       "micro_batch: expected micro_batch x seq_len below 2^28"},
      {[](auto& c) { c.vocab_size = 0; }, "vocab_size: expected"},
      {[](auto& c) { c.threads = 5000; }, "threads: expected an integer up to 1024, found 5000"},
      {[](auto& c) { c.mtp_modules = c.seq_len = 8; },
       "mtp_modules: expected an integer from 0, below seq_len, found 8"},
      {[](auto& c) { c.mtp_modules = 65; }, "mtp_modules: expected an integer up to 64"},
      {[](auto& c) { c.batch_start = 17; }, "batch_start: expected at most batch_size, found 17"},
      {[&](auto& c) { c.lr = nan; }, "lr: expected a number above 0, found nan"},
      {[&](auto& c) { c.lr = infinity; }, "lr: expected a number above 0, found inf"},
      {[](auto& c) { c.eps = 0; }, "eps: expected"},
      {[](auto& c) { c.weight_decay = -1; }, "weight_decay: expected a number of at least 0, found -1"},
      {[&](auto& c) { c.mtp_weight = nan; }, "mtp_weight: expected"},
      {[](auto& c) { c.decay_start = 1.5; }, "decay_start: expected a number from 0 to 1, found 1.5"},
      {[&](auto& c) { c.batch_ramp = nan; }, "batch_ramp: expected"},
      {[](auto& c) { c.beta2 = 1; }, "beta2: expected a number from 0 to below 1, found 1"},
      {[&](auto& c) { c.ema_decay = nan; }, "ema_decay: expected"},
      {[](auto& c) { c.eval_fraction = 1; }, "eval_fraction: expected"},
      {[](auto& c) { c.fim_rate = -0.1; }, "fim_rate: expected"},
      {[](auto& c) { c.keep_last = -1; }, "keep_last: expected"},
      {[](auto& c) { c.precision = "FP8"; }, "precision: expected f32, bf16 or fp8, found FP8"},
  };
  for (const Case& k : cases) {
    TrainConfig c = minimal();
    k.change(c);
    const std::string error = error_of([&] { check_config(c); });
    EXPECT_TRUE(error.starts_with(k.message)) << "expected: " << k.message << "\nfound:    " << error;
  }
}

TEST(ParseDuration, KnowsItsUnits) {
  EXPECT_EQ(parse_duration(""), 0);
  EXPECT_EQ(parse_duration("45"), 45);
  EXPECT_EQ(parse_duration("90s"), 90);
  EXPECT_EQ(parse_duration("2.5m"), 150);
  EXPECT_EQ(parse_duration("2h"), 7200);
  EXPECT_EQ(parse_duration("1d"), 86400);
  for (const char* bad : {"s", "-1s", "0", "1x", "1 s", "nan", "inf", "1e300d", "abc", "1e9999"})
    EXPECT_NE(error_of([&] { parse_duration(bad); }).find(bad), std::string::npos) << bad;
}

TEST(BuiltinModel, IsADeepSeekV3) {
  for (const char* size : {"tiny", "small", "medium"}) {
    const HfConfig c = builtin_model(size, 5000, 4096);
    EXPECT_EQ(c.model_type, "deepseek_v3");
    EXPECT_EQ(c.vocab_size, 5000);
    EXPECT_EQ(c.max_position_embeddings, 4096);
    EXPECT_EQ(parse_hf_config(write_hf_config(c), size), c);
  }
  EXPECT_EQ(error_of([] { builtin_model("big", 100, 10); }), "size: expected tiny, small or medium, found big");
}

TEST(ScheduleAt, FollowsTheRecipe) {
  TrainConfig c = minimal();
  c.lr = 1, c.lr_min = 0.1, c.warmup_steps = 10, c.decay_start = 0.5;
  c.mtp_weight = 0.3, c.mtp_weight_late = 0.1, c.mtp_switch = 0.6;
  c.bias_speed = 0.001, c.bias_stop = 0.9;
  c.batch_size = 16, c.batch_start = 4, c.batch_ramp = 0.5;
  EXPECT_FLOAT_EQ(schedule_at(c, 1, 0).lr, 0.1f);  // warm-up
  EXPECT_FLOAT_EQ(schedule_at(c, 10, 0.1).lr, 1);
  EXPECT_FLOAT_EQ(schedule_at(c, 50, 0.5).lr, 1);       // constant
  EXPECT_FLOAT_EQ(schedule_at(c, 75, 0.75).lr, 0.55f);  // half-way down the cosine
  EXPECT_FLOAT_EQ(schedule_at(c, 100, 1).lr, 0.1f);
  EXPECT_FLOAT_EQ(schedule_at(c, 59, 0.59).mtp_weight, 0.3f);
  EXPECT_FLOAT_EQ(schedule_at(c, 60, 0.6).mtp_weight, 0.1f);
  EXPECT_FLOAT_EQ(schedule_at(c, 89, 0.89).bias_speed, 0.001f);
  EXPECT_EQ(schedule_at(c, 90, 0.9).bias_speed, 0);
  EXPECT_EQ(schedule_at(c, 1, 0).batch_size, 4);
  EXPECT_EQ(schedule_at(c, 25, 0.25).batch_size, 10);
  EXPECT_EQ(schedule_at(c, 50, 0.5).batch_size, 16);
  c.decay_start = 1;
  EXPECT_FLOAT_EQ(schedule_at(c, 100, 1).lr, 1);
  c.warmup_steps = 0;
  EXPECT_FLOAT_EQ(schedule_at(c, 1, 0).lr, 1);
}

}  // namespace
}  // namespace sluice
