// What report.html shows, read from metrics.jsonl.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"
#include "formats/metrics_json.h"

namespace sluice {

/// Tokens by expert over the run in at most kMaxColumns columns, whatever its length: when they are full, neighbours
/// are added up in pairs.
class LoadHistory {
 public:
  static constexpr size_t kMaxColumns = 96;
  struct Column {
    int64_t first_step = 0, last_step = 0;
    int64_t samples = 0;                    // steps added up
    std::vector<std::vector<double>> load;  // by layer and expert, sums
  };
  /// Throws Error "where: ..." when the shape is not that of the steps before.
  void add(int64_t step, const std::vector<std::vector<int64_t>>& load, const std::string& where);
  const std::vector<Column>& columns() const { return columns_; }

 private:
  std::vector<Column> columns_;
  int64_t samples_per_column_ = 1;
};

/// The evaluations of one held-out set, one value per evaluation in each vector (NaN: not measured).
struct EvalHistory {
  std::string name;
  std::vector<double> step, loss, bits_per_byte, mtp_acceptance, max_vio;
};

/// A whole run. The vectors of doubles have one value per step; NaN where there is none.
struct RunData {
  RunInfo info;  // of the last start
  int64_t resumptions = 0;
  StepMetrics last;  // without its expert load
  std::vector<double> step, loss, loss_mtp, lr, grad_norm, max_vio, tokens_per_second, flops_per_second;
  std::vector<EvalHistory> evals;
  std::vector<TextSample> samples;
  LoadHistory load;
};

/// Reads folder/metrics.jsonl. Throws Error naming the file when it is malformed or has no step.
RunData read_run_data(const fs::path& folder);

}  // namespace sluice
