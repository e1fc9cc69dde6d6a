// Runs a pipeline schedule on the ranks of a communicator: brings each stage its inputs, sends on what comes out.
#pragma once
#include <cstddef>
#include <span>

#include "parallel/communicator.h"
#include "parallel/schedule.h"

namespace sluice {

/// What the stages of a rank compute. Chunk and micro-batch as in an Action. Spans stay valid until release().
class StageWork {
 public:
  virtual ~StageWork() = default;
  /// Where the input of a micro-batch belongs (not of the first stage): before its forward().
  virtual std::span<std::byte> input(int chunk, int micro) = 0;
  /// The output (empty in the last stage).
  virtual std::span<const std::byte> forward(int chunk, int micro) = 0;
  /// Where the gradient of the output belongs (not of the last stage): after forward(), before backward().
  virtual std::span<std::byte> output_gradient(int chunk, int micro) = 0;
  /// The gradient of the input (empty in the first stage). Those of the weights are added now or, unless
  /// `with_weights`, in backward_weight().
  virtual std::span<const std::byte> backward(int chunk, int micro, bool with_weights) = 0;
  virtual void backward_weight(int chunk, int micro) = 0;
  /// Everything of the micro-batch has been computed and sent.
  virtual void release(int chunk, int micro) = 0;
};

/// This rank's actions of one step. All ranks of `ranks`, one for each of the pipeline, call it.
void run_pipeline(const Pipeline& pipeline, Communicator& ranks, StageWork& work);

}  // namespace sluice
