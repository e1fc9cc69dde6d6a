// Lines of metrics.jsonl, the log of a training run: plain structs <-> one JSON object per line.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace sluice {

/// What holds for a whole run; written where it starts and wherever it resumes.
struct RunInfo {
  int64_t step = 0;         // steps done before this line: 0 at the start, more after resuming
  int64_t total_steps = 0;  // planned
  int64_t parameters = 0, active_parameters = 0;
  std::vector<std::string> expert_layers = {};  // labels of the rows of StepMetrics::expert_load: "1", "2", ..., "MTP"
  std::string config = {};                      // the resolved configuration, as it is printed
};

/// One optimizer step. Losses are in nats per token. NaN and infinities are written as null and read as NaN.
struct StepMetrics {
  int64_t step = 0;    // from 1
  int64_t tokens = 0;  // trained on since the run began, this step included
  double loss_main = 0;
  std::optional<double> loss_mtp = {};      // absent without an MTP module; not yet multiplied by mtp_weight
  std::optional<double> balance_loss = {};  // absent where not computed
  double lr = 0;
  double grad_norm = 0;  // global, before clipping
  double mtp_weight = 0, bias_speed = 0;
  std::optional<double> max_vio = {};  // of this step's batch; absent without experts
  double tokens_per_second = 0, flops_per_second = 0;
  double seconds = 0;  // of training since the run began, over all resumptions
  // Tokens routed to each expert in this step, by MoE layer; may be left empty in most steps (it makes lines long).
  std::vector<std::vector<int64_t>> expert_load = {};
};

/// One evaluation on held-out text, after `step` steps.
struct EvalMetrics {
  int64_t step = 0;
  std::string name = {};  // of the held-out set
  double loss = 0;        // nats per token
  double bits_per_byte = 0;
  std::optional<double> mtp_acceptance = {};  // share of drafted tokens that are accepted, 0 to 1
  std::optional<double> max_vio = {};         // over the whole set
};

/// Text written by the model after `step` steps.
struct TextSample {
  int64_t step = 0;
  std::string prompt = {}, text = {};
};

/// Bytes that several ranks gave to others in training steps, since the run began or went on until `step`; of all ranks
/// together (docs/benchmarks.md has the formulas).
struct TrafficMetrics {
  int64_t step = 0;
  int64_t steps = 0, tokens = 0;                                // in which they went
  int64_t experts = 0, stages = 0, gradients = 0, weights = 0;  // rows to experts; activations between stages; ...
  int64_t rest = 0;                                             // losses, counts and decisions
};

using MetricsLine = std::variant<RunInfo, StepMetrics, EvalMetrics, TextSample, TrafficMetrics>;

/// One JSON object without a newline; its key "kind" is run, step, eval, sample or traffic. Numbers read back bit for
/// bit.
std::string format_metrics_line(const MetricsLine& line);

/// Reads such an object; keys it does not know are ignored. Throws Error "where: field: expected ..., found ..." for
/// anything else, and for more than 65,536 values of expert load.
MetricsLine parse_metrics_line(std::string_view line, const std::string& where);

/// The steps done when the line was written.
int64_t metrics_line_step(const MetricsLine& line);

}  // namespace sluice
