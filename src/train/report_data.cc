#include "train/report_data.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "train/metrics.h"

namespace sluice {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

/// Adds the sums and the steps of `b` to `a`.
void merge(LoadHistory::Column& a, const LoadHistory::Column& b) {
  a.last_step = b.last_step;
  a.samples += b.samples;
  for (size_t layer = 0; layer < a.load.size(); ++layer)
    for (size_t e = 0; e < a.load[layer].size(); ++e) a.load[layer][e] += b.load[layer][e];
}

bool same_shape(const std::vector<std::vector<double>>& a, const std::vector<std::vector<double>>& b) {
  return std::ranges::equal(a, b, [](const auto& x, const auto& y) { return x.size() == y.size(); });
}

/// Takes the lines of a log one by one.
class Reader {
 public:
  explicit Reader(std::string file) : file_(std::move(file)) {}

  void operator()(const RunInfo& m) {
    if (m.step > 0) ++run_.resumptions;
    run_.info = m;
  }

  void operator()(const StepMetrics& m) {
    if (m.step <= run_.last.step) fail("{}: step: expected more than {}, found {}", file_, run_.last.step, m.step);
    run_.step.push_back(static_cast<double>(m.step));
    run_.loss.push_back(m.loss_main);
    run_.loss_mtp.push_back(m.loss_mtp.value_or(kNone));
    run_.lr.push_back(m.lr);
    run_.grad_norm.push_back(m.grad_norm);
    run_.max_vio.push_back(m.max_vio.value_or(kNone));
    run_.tokens_per_second.push_back(m.tokens_per_second);
    run_.flops_per_second.push_back(m.flops_per_second);
    if (!m.expert_load.empty()) run_.load.add(m.step, m.expert_load, file_);
    run_.last = m;
    run_.last.expert_load.clear();
  }

  void operator()(const EvalMetrics& m) {
    auto it = std::ranges::find(run_.evals, m.name, &EvalHistory::name);
    if (it == run_.evals.end()) {
      run_.evals.push_back(
          {.name = m.name, .step = {}, .loss = {}, .bits_per_byte = {}, .mtp_acceptance = {}, .max_vio = {}});
      it = run_.evals.end() - 1;
    }
    it->step.push_back(static_cast<double>(m.step));
    it->loss.push_back(m.loss);
    it->bits_per_byte.push_back(m.bits_per_byte);
    it->mtp_acceptance.push_back(m.mtp_acceptance.value_or(kNone));
    it->max_vio.push_back(m.max_vio.value_or(kNone));
  }

  void operator()(const TextSample& m) { run_.samples.push_back(m); }
  void operator()(const TrafficMetrics&) {}

  RunData take() {
    if (run_.step.empty()) fail("{}: expected at least one step", file_);
    return std::move(run_);
  }

 private:
  std::string file_;
  RunData run_;
};

}  // namespace

void LoadHistory::add(int64_t step, const std::vector<std::vector<int64_t>>& load, const std::string& where) {
  Column column{.first_step = step, .last_step = step, .samples = 1, .load = {}};
  for (const auto& layer : load) column.load.emplace_back(layer.begin(), layer.end());
  if (!columns_.empty() && !same_shape(columns_.back().load, column.load))
    fail("{}: expert_load of step {}: expected the layers and experts of the steps before", where, step);
  if (!columns_.empty() && columns_.back().samples < samples_per_column_) return merge(columns_.back(), column);
  if (columns_.size() == kMaxColumns) {
    for (size_t i = 0; i < kMaxColumns / 2; ++i) {
      if (i > 0) columns_[i] = std::move(columns_[2 * i]);
      merge(columns_[i], columns_[2 * i + 1]);
    }
    columns_.resize(kMaxColumns / 2);
    samples_per_column_ *= 2;
  }
  columns_.push_back(std::move(column));
}

RunData read_run_data(const fs::path& folder) {
  Reader reader((folder / "metrics.jsonl").string());
  read_metrics(folder, [&](const MetricsLine& line) { std::visit(reader, line); });
  return reader.take();
}

}  // namespace sluice
