// A run that trains on a GPU, in host memory: what files are read into and written from.
#pragma once
#include <memory>

#include "train/run_folder.h"

namespace sluice {

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

}  // namespace sluice
