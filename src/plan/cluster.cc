#include "plan/cluster.h"

#include <charconv>
#include <sstream>

#include "base/error.h"
#include "parallel/schedule.h"

namespace sluice {
namespace {

void expect_between(double value, double least, double most, const char* key) {
  if (!(value >= least && value <= most)) fail("{}: expected {} to {}, found {}", key, least, most, value);
}

constexpr double kMostTokens = 1 << 24;  // of a sequence or micro-batch, and sequences of a batch

}  // namespace

ExtensionPhase parse_extension(const std::string& text) {
  ExtensionPhase p{};
  char first = 0, second = 0;
  std::string rest;
  std::istringstream in(text);
  const bool is_read = in >> p.seq_len >> first >> p.batch_size >> second >> p.steps && !(in >> rest);
  if (!is_read || first != 'x' || second != 'x')
    fail("context_extension: expected LENGTH x SEQUENCES x STEPS, found {}", text);
  for (const int64_t size : {p.seq_len, p.batch_size, p.steps})
    expect_between(static_cast<double>(size), 1, kMostTokens, "context_extension");
  return p;
}

void check_cluster(const ClusterConfig& c) {
  expect_between(static_cast<double>(c.gpus), 1, 1 << 20, "gpus");
  expect_between(static_cast<double>(c.gpus_per_node), 1, 1024, "gpus_per_node");
  for (const auto& [value, key] : {std::pair{c.gpu_memory_gb, "gpu_memory_gb"},
                                   {c.peak_fp8_tflops, "peak_fp8_tflops"},
                                   {c.peak_bf16_tflops, "peak_bf16_tflops"},
                                   {c.memory_gb_per_second, "memory_gb_per_second"},
                                   {c.nvlink_gb_per_second, "nvlink_gb_per_second"},
                                   {c.infiniband_gb_per_second, "infiniband_gb_per_second"}})
    expect_between(value, 1e-3, 1e6, key);
  expect_between(static_cast<double>(c.sms), 1, 1e5, "sms");
  expect_between(static_cast<double>(c.communication_sms), 0, static_cast<double>(c.sms) - 1, "communication_sms");
  expect_between(c.dollars_per_gpu_hour, 0, 1e6, "dollars_per_gpu_hour");
  expect_between(static_cast<double>(c.seq_len), 1, kMostTokens, "seq_len");
  expect_between(static_cast<double>(c.batch_size), 1, kMostTokens, "batch_size");
  expect_between(c.post_training_gpu_hours, 0, 1e12, "post_training_gpu_hours");
  expect_between(c.published_gpu_hours, 0, 1e12, "published_gpu_hours");
  expect_between(static_cast<double>(c.pipeline), 0, 4096, "pipeline");
  expect_between(static_cast<double>(c.expert), 0, 1 << 20, "expert");
  expect_between(static_cast<double>(c.micro_tokens), 0, kMostTokens, "micro_tokens");
  if (c.gpus > c.gpus_per_node && c.gpus % c.gpus_per_node != 0)
    fail("gpus: expected a multiple of gpus_per_node ({}), found {}", c.gpus_per_node, c.gpus);
  if (!c.schedule.empty()) parse_schedule(c.schedule);
  if (c.context_extension.size() > 16)
    fail("context_extension: expected at most 16 phases, found {}", c.context_extension.size());
  for (const std::string& phase : c.context_extension) parse_extension(phase);
}

double parse_tokens(const std::string& text) {
  double value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string unit(rest, text.data() + text.size());
  const double scale = unit.empty()  ? 1
                       : unit == "k" ? 1e3
                       : unit == "M" ? 1e6
                       : unit == "B" ? 1e9
                       : unit == "T" ? 1e12
                                     : 0;
  value *= scale;
  if (error != std::errc() || !(value >= 1 && value <= 1e18))
    fail("tokens: expected a number like 14.8T, 630B or 5M, found {}", text.empty() ? "nothing" : text);
  return value;
}

}  // namespace sluice
