// The stages of a pipeline that this rank holds, and their micro-batches under way.
#pragma once
#include <map>

#include "data/sampler.h"
#include "model/stage.h"
#include "parallel/executor.h"
#include "train/losses.h"

namespace sluice {

/// Layers of each stage: as many in each as goes.
StageRange stage_range(const Pipeline& pipeline, int stage, int64_t layers);

class PipelineRun : public StageWork {
 public:
  /// `ranks` are those of the pipeline; all references must outlive it. Throws Error for fewer layers than stages.
  PipelineRun(Stream& s, const Pipeline& pipeline, Communicator& ranks, const Model& model, const ModelWeights& grad);

  /// One step over the rows of `batch` from `first_row` on, `micro_rows` in each of the pipeline's micro-batches. Adds
  /// gradients; counts_LE += tokens per expert. Returns this rank's share of the losses.
  StepLosses step(const Batch& batch, int64_t first_row, int64_t micro_rows, const PassOptions& options,
                  const Tensor& counts_LE);
  /// Of the micro-batches that are under way at the same time.
  size_t peak_bytes() const { return peak_bytes_; }

  /// What was computed when in the last step, in seconds from its begin.
  const std::vector<Span>& spans() const { return spans_; }

  int phases(const StagePass& pass) const override;
  void await(const StagePass& pass, int phase) override;
  void compute(const StagePass& pass, int phase) override;
  void backward_weight(int chunk, int micro) override;
  std::span<std::byte> input(int chunk, int micro) override;
  std::span<const std::byte> output(int chunk, int micro) override;
  std::span<std::byte> output_gradient(int chunk, int micro) override;
  std::span<const std::byte> input_gradient(int chunk, int micro) override;
  void release(int chunk, int micro) override;

 private:
  struct Micro {
    Arena memory;
    StageSaved saved;
    Tensor gradient_TD = {};  // of the output
  };
  Micro& micro_of(int chunk, int micro);
  const StageRange& range(int chunk) const { return ranges_[static_cast<size_t>(chunk)]; }
  size_t bytes_of_micro(int64_t rows, int64_t tokens, const PassOptions& options) const;
  void add_losses(int chunk, const StageSaved& k);

  Stream& s_;
  Pipeline pipeline_;
  Communicator& ranks_;
  const Model& model_;
  const ModelWeights& grad_;
  std::vector<StageRange> ranges_;  // by chunk
  std::map<std::pair<int, int>, Micro> micros_;
  std::vector<Arena> free_;
  size_t micro_bytes_ = 0, peak_bytes_ = 0;
  std::vector<Span> spans_;
  // Of the step.
  const Batch* batch_ = nullptr;
  int64_t first_row_ = 0, micro_rows_ = 0;
  PassOptions options_;
  Tensor counts_LE_;
  StepLosses losses_;
};

}  // namespace sluice
