// sluice plan as a user runs it, and what the user gets wrong.
#include <gtest/gtest.h>

#include "base/file.h"
#include "program.h"

namespace sluice {
namespace {

const std::string kModel = SLUICE_SOURCE_DIR "/configs/models/deepseek-v3-671b.json";
const std::string kCluster = SLUICE_SOURCE_DIR "/configs/clusters/h800-2048.yaml";

Words plan(const std::string& cluster, const Words& more = {}) {
  Words args = {"plan", "--config", kModel, "--cluster", cluster, "--tokens", "14.8T"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

TEST(PlanCommand, PlansThePublishedRun) {
  const TempDir dir;
  const std::string trace = dir / "trace.json", svg = dir / "step.svg";
  const Outcome o = sluice(plan(kCluster, {"--trace", trace, "--svg", svg}));
  EXPECT_EQ(o.exit_code, 0) << o.err;
  for (const char* part : {"pipeline 16 (dualpipe), data 128, expert 64; 120 micro-batches of 4096 tokens", "memory   ",
                           "exposed communication", "pipeline bubble", "published, and not explained",
                           "context of 131072", "GPU-hours", "dollars"})
    EXPECT_NE(o.out.find(part), std::string::npos) << part << "\n" << o.out;
  EXPECT_EQ(read_file(svg).rfind("<svg", 0), 0u);
  EXPECT_NE(read_file(trace).find("\"traceEvents\""), std::string::npos);
}

TEST(PlanCommand, WritesJson) {
  const Outcome o = sluice(plan(kCluster, {"--json", "schedule=zb1p"}));
  EXPECT_EQ(o.exit_code, 0) << o.err;
  EXPECT_EQ(lines_of(o.out).size(), 1u);
  for (const char* part : {"\"schedule\":\"zb1p\"",
                           "\"pipeline_bubble\":", "\"gpu_hours_per_trillion\":", "\"pre_training\":", "\"dollars\":"})
    EXPECT_NE(o.out.find(part), std::string::npos) << part << "\n" << o.out;
}

TEST(PlanCommand, MistakesAreOneLine) {
  const TempDir dir;
  const auto with = [&](const char* name, const std::string& text) {
    write_file(dir / name, text);
    return dir / name;
  };
  const std::string model = "measurements: " SLUICE_SOURCE_DIR "/configs/measurements/h100.json\n";
  const std::string bad_rate =
      R"({"device": "x", "measurements": [{"test": "attention", "pass": "forward", "flops": -1}]})";
  write_file(dir / "rates.json", bad_rate);
  write_file(dir / "empty.json", "{}");
  const std::vector<std::pair<Words, Words>> cases = {
      {plan(dir / "nowhere.yaml"), {"nowhere.yaml: cannot open"}},
      {plan(with("broken.yaml", "gpus: [1, 2\n")), {"broken.yaml:2: "}},
      {plan(with("binary.yaml", std::string("\x00\x01\xff{", 4))), {"binary.yaml"}},
      {plan(with("list.yaml", "- 1\n- 2\n")), {"list.yaml: expected a map of keys"}},
      {plan(with("unknown.yaml", "gpu: 8\n")), {"unknown.yaml: unknown key gpu; the nearest is gpus"}},
      {plan(with("twice.yaml", "gpus: 8\ngpus: 8\n")), {"twice.yaml: gpus: found twice"}},
      {plan(with("text.yaml", "gpus: many\n")), {"text.yaml: gpus: expected an integer, found many"}},
      {plan(with("huge.yaml", "gpus: 99999999999999999999\n")), {"gpus: expected an integer"}},
      {plan(with("zero.yaml", "gpus: 0\n")), {"zero.yaml: gpus: expected 1 to 1048576, found 0"}},
      {plan(with("negative.yaml", "seq_len: -5\n")), {"seq_len: expected 1 to 16777216, found -5"}},
      {plan(with("nan.yaml", "gpu_memory_gb: .nan\n")), {"gpu_memory_gb: expected 0.001 to 1000000, found nan"}},
      {plan(with("rates.yaml", "measurements: rates.json\n")),
       {"rates.json: measurements[0]: flops: expected a number above 0"}},
      {plan(with("empty.yaml", "measurements: empty.json\n")), {"empty.json: device: "}},
      {plan(with("phase.yaml", "context_extension: 32768\n")),
       {"context_extension: expected LENGTH x SEQUENCES x STEPS"}},
      {plan(kCluster, {"pipeline=7"}), {"pipeline: expected a divisor of gpus (2048), found 7"}},
      {plan(kCluster, {"batch_size=2048"}), {"dualpipe: 16 ranks need at least 32 micro-batches, found 16"}},
      {plan(kCluster, {"gpu_memory_gb=10"}), {"memory: the layout needs", "of 10.0 on a GPU"}},
      {plan(with("small.yaml", "gpus: 8\n" + model)), {"memory: the smallest layout needs ", " of 80.0 on a GPU"}},
      {plan(with("odd.yaml", "gpus: 8\nseq_len: 77\n")), {"plan: none of ", " layouts is possible; the last: "}},
      {plan(kCluster, {"nonsense"}), {"command line: expected key=value, found nonsense"}},
      {plan(kCluster, {"--svg", dir / "no/such/folder.svg"}), {"folder.svg"}},
      {{"plan", "--config", kModel, "--cluster", kCluster, "--tokens", "many"},
       {"tokens: expected a number like 14.8T"}},
      {{"plan", "--config", kCluster, "--cluster", kCluster, "--tokens", "1T"}, {"h800-2048.yaml: malformed JSON"}},
      {{"plan", "--config", kModel, "--tokens", "1T"}, {"--cluster is required"}},
  };
  for (const auto& [args, parts] : cases) {
    SCOPED_TRACE(parts[0]);
    expect_user_error(sluice(args), parts);
  }
}

}  // namespace
}  // namespace sluice
