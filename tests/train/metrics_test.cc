#include "train/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "../base/temp_dir.h"

namespace sluice {
namespace {

StepMetrics step_metrics(int64_t step) {
  return {.step = step,
          .tokens = 100 * step,
          .loss_main = 1.0 / static_cast<double>(step),
          .loss_mtp = 0.1f,
          .balance_loss = {},
          .lr = 1e-4,
          .grad_norm = 2,
          .mtp_weight = 0.3,
          .bias_speed = 0.001,
          .max_vio = 0.5,
          .tokens_per_second = 10,
          .flops_per_second = 1e9,
          .seconds = 0.5 * static_cast<double>(step),
          .expert_load = {{1, 2}, {3, 4}}};
}

RunInfo run_info(int64_t step) {
  return {.step = step,
          .total_steps = 9,
          .parameters = 5,
          .active_parameters = 4,
          .expert_layers = {"1", "MTP"},
          .config = "a: 1\n\"b\": 2"};
}

/// The log as text, and its lines as "kind:step".
std::string log_of(const fs::path& folder) { return read_file(folder / "metrics.jsonl"); }

std::string kinds_of(const fs::path& folder) {
  std::string out;
  constexpr const char* kNames[] = {"run", "step", "eval", "sample"};
  read_metrics(folder, [&](const MetricsLine& line) {
    out += fmt::format("{}{}:{}", out.empty() ? "" : " ", kNames[line.index()], metrics_line_step(line));
  });
  return out;
}

void append_text(const fs::path& folder, std::string_view text) {
  std::ofstream(folder / "metrics.jsonl", std::ios::app | std::ios::binary) << text;
}

TEST(MaxVio, FollowsTheDefinition) {
  EXPECT_DOUBLE_EQ(max_vio({{5, 5, 5, 5}}), 0);
  EXPECT_DOUBLE_EQ(max_vio({{10, 0, 5, 5}}), 1);           // 10 / 5 - 1
  EXPECT_DOUBLE_EQ(max_vio({{10, 0, 5, 5}, {20, 0}}), 1);  // (1 + 1) / 2
  EXPECT_DOUBLE_EQ(max_vio({{3, 1}, {2, 2}}), 0.25);       // (0.5 + 0) / 2
  EXPECT_DOUBLE_EQ(max_vio({{3, 1}, {0, 0}, {}}), 0.5);    // layers without tokens do not count
  EXPECT_DOUBLE_EQ(max_vio({}), 0);
}

TEST(MetricsJson, ReadsBackWhatItWrote) {
  StepMetrics m = step_metrics(3);
  m.loss_main = 0.1 + 0.2;
  const std::string text = format_metrics_line(m);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  const auto back = std::get<StepMetrics>(parse_metrics_line(text, "f"));
  EXPECT_EQ(back.loss_main, 0.1 + 0.2);
  EXPECT_EQ(back.loss_mtp, double{0.1f});
  EXPECT_FALSE(back.balance_loss.has_value());
  EXPECT_EQ(back.expert_load, m.expert_load);
  EXPECT_EQ(format_metrics_line(back), text);
  const std::string run = format_metrics_line(run_info(2));
  EXPECT_EQ(format_metrics_line(parse_metrics_line(run, "f")), run);
  EXPECT_EQ(std::get<RunInfo>(parse_metrics_line(run, "f")).config, run_info(2).config);
  const std::string eval = format_metrics_line(EvalMetrics{7, "val", 2.5, 1.25, 0.5, {}});
  EXPECT_EQ(format_metrics_line(parse_metrics_line(eval, "f")), eval);
  const std::string sample = format_metrics_line(TextSample{7, "a\n", "\"字\""});
  EXPECT_EQ(format_metrics_line(parse_metrics_line(sample, "f")), sample);
  const std::string traffic = format_metrics_line(TrafficMetrics{7, 6, 100, 1, 2, 3, 4, 5});
  EXPECT_EQ(format_metrics_line(parse_metrics_line(traffic, "f")), traffic);
  EXPECT_EQ(std::get<TrafficMetrics>(parse_metrics_line(traffic, "f")).weights, 4);
}

TEST(MetricsJson, WritesNanAsNull) {
  StepMetrics m = step_metrics(1);
  m.loss_main = NAN;
  m.loss_mtp = INFINITY;
  const auto back = std::get<StepMetrics>(parse_metrics_line(format_metrics_line(m), "f"));
  EXPECT_TRUE(std::isnan(back.loss_main));
  EXPECT_TRUE(back.loss_mtp && std::isnan(*back.loss_mtp));
}

TEST(MetricsJson, RefusesBadLines) {
  const auto error = [](const std::string& text) { return error_of([&] { parse_metrics_line(text, "f:3"); }); };
  const std::string good = format_metrics_line(step_metrics(3));
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    EXPECT_NE(text.find(from), std::string::npos) << from;
    return text.replace(text.find(from), from.size(), to);
  };
  EXPECT_EQ(error(good), "");
  EXPECT_EQ(error(with("\"step\":3", "\"step\":-3")), "f:3: step: expected an integer >= 0, found -3");
  EXPECT_EQ(error(with("\"step\":3", "\"step\":9223372036854775808")),
            "f:3: step: expected an integer below 2^63, found 9223372036854775808");
  EXPECT_EQ(error(with("\"lr\":", "\"lR\":")), "f:3: lr: expected a number, found nothing");
  EXPECT_EQ(error(with("\"loss_mtp\":", "\"loss_mtp\":\"x\",\"old\":")),
            "f:3: loss_mtp: expected a number or null, found \"x\"");
  EXPECT_EQ(error(with("[3,4]", "[3,-4]")), "f:3: expert_load: expected counts from 0 to 2^40, found -4");
  EXPECT_EQ(error(with("[3,4]", "5")), "f:3: expert_load: expected arrays of counts, found 5");
  EXPECT_EQ(error(with("\"kind\":\"step\"", "\"kind\":\"stop\"")),
            "f:3: kind: expected run, step, eval, sample or traffic, found \"stop\"");
  std::string many = "[3";
  for (int i = 0; i < 65536; ++i) many += ",1";
  EXPECT_EQ(error(with("[3,4]", many + "]")), "f:3: expert_load: expected at most 65536 values");
  EXPECT_EQ(error(R"({"kind":"run","step":0,"total_steps":1,"parameters":1,"active_parameters":1,)"
                  R"("expert_layers":[1],"config":""})"),
            "f:3: expert_layers: expected strings, found 1");
  EXPECT_NE(error("[]"), "");
  EXPECT_NE(error(good.substr(0, good.size() - 1)), "");
}

TEST(MetricsWriter, WritesLinesInOrder) {
  TempDir dir;
  {
    MetricsWriter writer(dir / "new" / "run", run_info(0));
    writer.add(step_metrics(1));
    EXPECT_EQ(kinds_of(dir / "new" / "run"), "run:0 step:1") << "a line is in the file once it was added";
    writer.add(EvalMetrics{1, "val", 2, 1, {}, {}});
    writer.add(TextSample{1, "p", "t"});
    writer.sync();
  }
  EXPECT_EQ(kinds_of(dir / "new" / "run"), "run:0 step:1 eval:1 sample:1");
}

TEST(MetricsWriter, DropsLaterStepsWhenTheRunResumes) {
  TempDir dir;
  std::string before;
  {
    MetricsWriter writer(dir.path(), run_info(0));
    for (int64_t step = 1; step <= 5; ++step) {
      writer.add(step_metrics(step));
      if (step == 3) writer.add(EvalMetrics{step, "val", 2, 1, {}, {}});
      if (step == 3) before = log_of(dir.path());
    }
    writer.add(EvalMetrics{5, "val", 2, 1, {}, {}});
  }
  for (int again = 0; again < 3; ++again) {
    MetricsWriter writer(dir.path(), run_info(3));
    EXPECT_EQ(kinds_of(dir.path()), "run:0 step:1 step:2 step:3 eval:3 run:3");
    EXPECT_EQ(log_of(dir.path()).substr(0, before.size()), before);
    writer.add(step_metrics(4));
  }
  { MetricsWriter writer(dir.path(), run_info(4)); }
  EXPECT_EQ(kinds_of(dir.path()), "run:0 step:1 step:2 step:3 eval:3 run:3 step:4 run:4");
  { MetricsWriter writer(dir.path(), run_info(0)); }
  EXPECT_EQ(kinds_of(dir.path()), "run:0");
}

TEST(MetricsWriter, SurvivesBeingCutWithinALine) {
  TempDir dir;
  {
    MetricsWriter writer(dir.path(), run_info(0));
    for (int64_t step = 1; step <= 3; ++step) writer.add(step_metrics(step));
  }
  const std::string whole = log_of(dir.path());
  const size_t step2 = whole.find("{\"kind\":\"step\",\"step\":2"), step3 = whole.find("{\"kind\":\"step\",\"step\":3");
  for (const size_t length : {step2, step2 + 1, step2 + 20, step3 - 2, step3 - 1, step3, step3 + 1, step3 + 50,
                              whole.size() - 1, whole.size()}) {
    write_file(dir / "metrics.jsonl", whole.substr(0, length));
    { MetricsWriter writer(dir.path(), run_info(2)); }
    const std::string kept = length < step3 ? "run:0 step:1" : "run:0 step:1 step:2";
    ASSERT_EQ(kinds_of(dir.path()), kept + " run:2") << length;
  }
}

TEST(MetricsWriter, RemovesWhatACrashOfTheMachineLeft) {
  TempDir dir;
  {
    MetricsWriter writer(dir.path(), run_info(0));
    writer.add(step_metrics(1));
  }
  append_text(dir.path(), std::string(100, '\0') + "\n" + std::string(50, '\0'));
  EXPECT_NE(error_of([&] { read_metrics(dir.path(), [](const MetricsLine&) {}); }), "");
  { MetricsWriter writer(dir.path(), run_info(1)); }
  EXPECT_EQ(kinds_of(dir.path()), "run:0 step:1 run:1");
}

TEST(MetricsWriter, NamesTheFileItCannotWrite) {
  TempDir dir;
  write_file(dir / "file", "x");
  EXPECT_NE(error_of([&] { MetricsWriter(dir / "file", run_info(0)); }).find((dir / "file").string()),
            std::string::npos);
  // /dev/full takes no byte, like a full disk.
  fs::create_directories(dir / "full");
  fs::create_symlink("/dev/full", dir / "full" / "metrics.jsonl");
  const std::string error = error_of([&] { MetricsWriter(dir / "full", run_info(0)); });
  EXPECT_NE(error.find((dir / "full" / "metrics.jsonl").string()), std::string::npos) << error;
}

TEST(ReadMetrics, LeavesOutATornLastLineOnly) {
  TempDir dir;
  {
    MetricsWriter writer(dir.path(), run_info(0));
    writer.add(step_metrics(1));
  }
  append_text(dir.path(), "{\"kind\":\"st");
  EXPECT_EQ(kinds_of(dir.path()), "run:0 step:1");
  append_text(dir.path(), "\n" + format_metrics_line(step_metrics(2)) + "\n");
  EXPECT_NE(error_of([&] { kinds_of(dir.path()); }).find("metrics.jsonl:3: malformed JSON"), std::string::npos);
}

TEST(MetricsWriter, WritesTensorboardEvents) {
  TempDir dir;
  for (const int64_t done : {0, 1}) {
    MetricsWriter writer(dir.path(), run_info(done));
    writer.add(step_metrics(done + 1));
    writer.add(EvalMetrics{done + 1, "val", 2, 1, {}, {}});
  }
  std::string all;
  int files = 0;
  for (const auto& entry : fs::directory_iterator(dir / "tensorboard")) ++files, all += read_file(entry.path());
  EXPECT_EQ(files, 2);
  for (const char* tag : {"train/loss", "train/loss_mtp", "train/max_vio", "train/grad_norm", "schedule/lr",
                          "speed/tokens_per_second", "eval/val/bits_per_byte"})
    EXPECT_NE(all.find(tag), std::string::npos) << tag;
  EXPECT_EQ(all.find("train/balance_loss"), std::string::npos) << "absent values make no event";
}

}  // namespace
}  // namespace sluice
