// The log of a training run: metrics.jsonl and TensorBoard event files. Each step is there once, however often the run
// was killed and resumed.
#pragma once
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <vector>

#include "base/file.h"
#include "formats/metrics_json.h"
#include "formats/tensorboard.h"

namespace sluice {

/// Balance of the experts: max load / mean load - 1, averaged over the MoE layers (spec 3.7). `load`: tokens by layer
/// and expert, of one batch (MaxVio_batch) or summed over a whole set (MaxVio_global). Layers that saw no token do not
/// count; 0 when none is left.
double max_vio(const std::vector<std::vector<int64_t>>& load);

/// Calls `fn` for every line of folder/metrics.jsonl in order. A last line without its newline (a run killed while
/// writing, or one that is writing now) is left out. Throws Error "file:line: ..." for any other malformed line, and
/// when the file cannot be read.
void read_metrics(const fs::path& folder, const std::function<void(const MetricsLine&)>& fn);

/// Appends to folder/metrics.jsonl and to event files in folder/tensorboard.
class MetricsWriter {
 public:
  /// Creates the folder if need be. `info.step` is the number of steps done: what metrics.jsonl says about later ones
  /// (all of it, for 0) is dropped by an atomic rewrite, a torn last line too; then the line of `info` is appended.
  /// Evaluations and samples after `info.step` steps stay, so a trainer makes them before it saves that step. Throws
  /// Error naming the file.
  MetricsWriter(const fs::path& folder, const RunInfo& info);

  /// Each appends one line, flushed, so that a killed run leaves at most its last line torn, and one TensorBoard event
  /// (samples and traffic: only the line). Throws Error.
  void add(const StepMetrics& m);
  void add(const EvalMetrics& m);
  void add(const TextSample& m);
  void add(const TrafficMetrics& m);

  /// fsync of metrics.jsonl: called before a checkpoint is saved, so that no step before it is missing after a power
  /// cut. Throws Error.
  void sync();

 private:
  struct Close {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  void append(const MetricsLine& line);

  fs::path path_;
  std::unique_ptr<std::FILE, Close> file_;
  TensorboardWriter tensorboard_;
};

}  // namespace sluice
