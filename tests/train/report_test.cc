#include "train/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <random>

#include "../base/temp_dir.h"
#include "train/metrics.h"
#include "train/report_html.h"

namespace sluice {
namespace {

struct Shape {
  int64_t steps;
  size_t layers, experts;
};

/// Loads that start uneven and get even.
std::vector<std::vector<int64_t>> synthetic_load(std::mt19937& rng, const Shape& shape, double progress) {
  std::normal_distribution<double> noise;
  std::vector<std::vector<int64_t>> load(shape.layers);
  for (size_t l = 0; l < shape.layers; ++l)
    for (size_t e = 0; e < shape.experts; ++e) {
      const double bias = std::sin(1.7 * static_cast<double>(l) + 2.3 * static_cast<double>(e)) * 1.4;
      load[l].push_back(std::lround(500 * std::exp(bias * std::exp(-5 * progress) + 0.08 * noise(rng))));
    }
  return load;
}

/// A run that looks like a real one.
void write_run(const fs::path& folder, const Shape& shape) {
  std::mt19937 rng(5);
  std::normal_distribution<double> noise;
  RunInfo info{.step = 0,
               .total_steps = shape.steps,
               .parameters = 4128768,
               .active_parameters = 1310720,
               .config = "size: small\nseed: 1\nlr: 0.003\ndata: [austen.txt, \"<tang>\"]\n"};
  for (size_t l = 0; l + 1 < shape.layers; ++l) info.expert_layers.push_back(fmt::format("{}", l + 1));
  info.expert_layers.push_back("MTP");
  MetricsWriter writer(folder, info);
  for (int64_t step = 1; step <= shape.steps; ++step) {
    const double t = static_cast<double>(step) / static_cast<double>(shape.steps);
    const double loss = 2.9 + 5.2 * std::exp(-9 * t) + 0.08 * noise(rng);
    const auto load = synthetic_load(rng, shape, t);
    writer.add(StepMetrics{.step = step,
                           .tokens = step * 4096,
                           .loss_main = loss,
                           .loss_mtp = loss + 0.6 + 0.06 * noise(rng),
                           .balance_loss = 0.01,
                           .lr = 3e-3 * std::min(1.0, t * 20) * (0.55 + 0.45 * std::cos(t * 3.14)),
                           .grad_norm = std::exp(0.3 * noise(rng)) * (0.4 + 4 * std::exp(-30 * t)),
                           .mtp_weight = 0.3,
                           .bias_speed = 0.001,
                           .max_vio = max_vio(load),
                           .tokens_per_second = 18000 + 400 * noise(rng),
                           .flops_per_second = 41e9 + 1e9 * noise(rng),
                           .seconds = 0.23 * static_cast<double>(step),
                           .expert_load = load});
    if (step % std::max<int64_t>(shape.steps / 10, 1) != 0) continue;
    for (const char* name : {"austen", "tang"})
      writer.add(EvalMetrics{.step = step,
                             .name = name,
                             .loss = loss + (name[0] == 't' ? 0.9 : 0.1),
                             .bits_per_byte = loss * (name[0] == 't' ? 0.9 : 0.6),
                             .mtp_acceptance = 0.2 + 0.5 * t,
                             .max_vio = max_vio(load) / 2});
    writer.add(TextSample{.step = step,
                          .prompt = "It was a truth",
                          .text = " universally acknowledged, that a <single> man in possession of a good fortune "
                                  "must be in want of a wife & so on. 床前明月光，疑是地上霜。"});
  }
}

size_t count(const std::string& text, std::string_view part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

std::string report_of(const Shape& shape) {
  TempDir dir;
  // A folder of the caller's choice keeps the run, to look at its report.
  const char* kept = std::getenv("SLUICE_REPORT_DIR");
  const fs::path folder = (kept ? fs::path(kept) : dir.path()) / fmt::format("run-{}-{}", shape.steps, shape.experts);
  write_run(folder, shape);
  write_report(folder);
  return read_file(folder / "report.html");
}

TEST(Report, ShowsEveryPartOfARun) {
  const std::string html = report_of({.steps = 780, .layers = 4, .experts = 16});
  for (const char* title : {"Loss", "Held-out text", "MTP drafts accepted", "MaxVio", "Learning rate", "Gradient norm",
                            "Speed", "Expert load"})
    EXPECT_EQ(count(html, fmt::format("<figcaption><b>{}</b>", title)), 1u) << title;
  EXPECT_EQ(count(html, "<figure"), 8u);
  EXPECT_NE(html.find("<title>run-780-16: training report</title>"), std::string::npos);
  EXPECT_NE(html.find("780 of 780 steps"), std::string::npos);
  EXPECT_NE(html.find("<b>4.13M<small>"), std::string::npos);
  EXPECT_NE(html.find("<b>2 min 59 s<small>"), std::string::npos);
  EXPECT_NE(html.find("size: small\nseed: 1"), std::string::npos);
  EXPECT_EQ(count(html, "<article>"), 6u);
  EXPECT_LT(html.find("<span>step 780</span>"), html.find("<span>step 78</span>")) << "the last sample comes first";
}

TEST(Report, NeedsNothingFromElsewhereAndEscapesText) {
  const std::string html = report_of({.steps = 40, .layers = 2, .experts = 4});
  for (const char* part : {"http:", "https:", "src=", "href=", "@import", "url("})
    EXPECT_EQ(count(html, part), 0u) << part;
  EXPECT_EQ(count(html, "<tang>"), 0u);
  EXPECT_EQ(count(html, "&lt;tang&gt;"), 1u);
  EXPECT_EQ(count(html, "<single>"), 0u);
  EXPECT_EQ(count(html, "<script>"), 1u);
  EXPECT_EQ(count(html, "prefers-color-scheme: dark"), 1u);
  EXPECT_EQ(count(html, "nan"), 0u);
  EXPECT_EQ(count(html, "inf"), 0u);
}

TEST(Report, StaysSmallForLongRunsAndManyExperts) {
  EXPECT_LT(report_of({.steps = 6000, .layers = 9, .experts = 64}).size(), 300'000u);
}

TEST(Report, ShowsARunWithoutExpertsOrEvaluationsOrALoss) {
  TempDir dir;
  {
    MetricsWriter writer(dir.path(), RunInfo{.total_steps = 10});
    writer.add(StepMetrics{.step = 1, .tokens = 5, .loss_main = NAN});
  }
  write_report(dir.path());
  const std::string html = read_file(dir / "report.html");
  EXPECT_EQ(count(html, "<b>Loss</b>"), 0u);
  EXPECT_EQ(count(html, "<b>Expert load</b>"), 0u);
  EXPECT_EQ(count(html, "<b>Learning rate</b>"), 1u);
  EXPECT_NE(html.find("1 of 10 steps"), std::string::npos);
}

TEST(Report, RefusesALogWithoutSteps) {
  TempDir dir;
  { MetricsWriter writer(dir.path(), RunInfo{}); }
  EXPECT_EQ(error_of([&] { write_report(dir.path()); }),
            (dir / "metrics.jsonl").string() + ": expected at least one step");
  EXPECT_FALSE(fs::exists(dir / "report.html"));
}

TEST(Report, AddsUpLoadsWithoutLosingAny) {
  LoadHistory history;
  const int64_t steps = 1000;
  for (int64_t step = 1; step <= steps; ++step) history.add(step, {{step, 1}, {0, 2}}, "f");
  ASSERT_LE(history.columns().size(), LoadHistory::kMaxColumns);
  double sum = 0;
  int64_t next = 1;
  for (const auto& c : history.columns()) {
    EXPECT_EQ(c.first_step, next);
    EXPECT_EQ(c.last_step - c.first_step + 1, c.samples);
    EXPECT_TRUE(c.samples == history.columns()[0].samples || c.last_step == steps);
    EXPECT_EQ(c.load[1][1], 2 * static_cast<double>(c.samples));
    sum += c.load[0][0];
    next = c.last_step + 1;
  }
  EXPECT_EQ(next, steps + 1);
  EXPECT_EQ(sum, static_cast<double>(steps * (steps + 1) / 2));
  EXPECT_EQ(error_of([&] {
              history.add(steps + 1, {{1, 2, 3}}, "f");
            }),
            "f: expert_load of step 1001: expected the layers and experts of the steps before");
}

TEST(Report, ColoursOverAndUnderloadedExperts) {
  LoadHistory history;
  history.add(1, {{400, 100, 0, 0}}, "f");  // 3.2, 0.8, 0 and 0 times the fair share
  const std::string html = heat_map_html(history, {"7"});
  EXPECT_NE(html.find("<path class=\"hot\" stroke-opacity=\"0.875\" d=\"M0 0h1\"/>"), std::string::npos) << html;
  EXPECT_NE(html.find("<path class=\"cold\" stroke-opacity=\"0.125\" d=\"M0 1h1\"/>"), std::string::npos) << html;
  EXPECT_NE(html.find("<path class=\"cold\" stroke-opacity=\"1\" d=\"M0 2h1M0 3h1\"/>"), std::string::npos) << html;
  EXPECT_NE(html.find(">layer 7</i>"), std::string::npos);
}

TEST(Report, DrawsCurvesWhereTheirValuesAre) {
  const std::vector<double> x = {0, 5, 10}, y = {0, 1, NAN};
  const std::string html = chart_html({.title = "T", .unit = "u", .curves = {{"a", "main", x, y}}, .last_step = 10});
  EXPECT_NE(html.find("<path class=\"line main\" d=\"M0 1000L500 0\"/>"), std::string::npos) << html;
  EXPECT_NE(html.find("<i class=\"y\" style=\"top:0.00%\">1</i>"), std::string::npos) << html;
  EXPECT_NE(html.find("<i class=\"x\" style=\"left:100.00%\">10</i>"), std::string::npos) << html;
}

TEST(Report, RoundsTicksAndNumbers) {
  EXPECT_EQ(round_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(round_ticks(2.4, 3.1, 4).size(), 4u);  // 2.4, 2.6, 2.8, 3.0
  EXPECT_TRUE(round_ticks(1, 1, 5).empty());
  EXPECT_TRUE(round_ticks(NAN, 1, 5).empty());
  EXPECT_EQ(tick_label(0.0003), "0.0003");
  EXPECT_EQ(tick_label(12000), "12k");
  EXPECT_EQ(tick_label(2.5e6), "2.5M");
  EXPECT_EQ(format_grouped(0), "0");
  EXPECT_EQ(format_grouped(999), "999");
  EXPECT_EQ(format_grouped(-1234567), "-1,234,567");
}

}  // namespace
}  // namespace sluice
