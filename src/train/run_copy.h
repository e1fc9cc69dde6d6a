// Copies of a run in host memory: what files are read into and written from where that is not the run itself.
#pragma once
#include <memory>

#include "train/run_folder.h"

namespace sluice {

/// For one that trains on a GPU and goes on from a checkpoint.
class RunCopy {
 public:
  /// Weights, masters, moments and average of `run`, which lies on the device of `gpu`; `host` is a stream of the CPU.
  RunCopy(Stream& host, Stream& gpu, const RunState& run);
  RunCopy(const RunCopy&) = delete;

  /// The copy as a state, with the run's own progress.
  RunState state();
  /// Back to the GPU, after load_run().
  void upload_to(Stream& gpu, const RunState& run);

 private:
  Model model_;
  Optimizer optimizer_;
  std::unique_ptr<Model> ema_;
  RunProgress& progress_;
};

/// What is written of a run that goes on meanwhile, or of one on a GPU.
class RunSnapshot {
 public:
  /// What this rank owns; memory of the rest stays untouched. `s` is the stream that the run computes on.
  RunSnapshot(Stream& s, const RunState& run);
  RunSnapshot(const RunSnapshot&) = delete;

  SavedRun saved() {
    return {config_, precision_, &master_.weights, &first_, &second_, ema_ ? &ema_->weights : nullptr, progress_};
  }

 private:
  HfConfig config_;
  Precision precision_;
  Model master_;
  Arena moments_{0};
  ModelWeights first_, second_;
  std::unique_ptr<Model> ema_;
  RunProgress progress_;
};

}  // namespace sluice
