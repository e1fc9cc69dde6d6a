// Runs a pipeline schedule on the ranks of a communicator: brings each stage its inputs, sends on what comes out, and
// lets the phases of an overlapped pair take turns.
#pragma once
#include <cstddef>
#include <span>

#include "parallel/communicator.h"
#include "parallel/phases.h"
#include "parallel/timeline.h"

namespace sluice {

/// What the stages of a rank compute. Chunk and micro-batch as in an Action. Spans stay valid until release().
class StageWork {
 public:
  virtual ~StageWork() = default;
  /// Of a pass, at least 1; as many on all ranks that exchange rows with each other within a stage.
  virtual int phases(const StagePass& pass) const = 0;
  /// Waits for transfers within the stage that the phase needs.
  virtual void await(const StagePass& pass, int phase) = 0;
  /// Of a B the gradients of the weights are added in its phases, of a Bi in backward_weight().
  virtual void compute(const StagePass& pass, int phase) = 0;
  virtual void backward_weight(int chunk, int micro) = 0;

  /// Where the input of a micro-batch belongs (not of the first stage): before its forward.
  virtual std::span<std::byte> input(int chunk, int micro) = 0;
  /// After the forward (not of the last stage).
  virtual std::span<const std::byte> output(int chunk, int micro) = 0;
  /// Where the gradient of the output belongs (not of the last stage): after the forward, before the backward.
  virtual std::span<std::byte> output_gradient(int chunk, int micro) = 0;
  /// After the backward (not of the first stage).
  virtual std::span<const std::byte> input_gradient(int chunk, int micro) = 0;
  /// Everything of the micro-batch has been computed and sent.
  virtual void release(int chunk, int micro) = 0;
};

/// This rank's actions of one step. All ranks of `ranks`, one for each of the pipeline, call it. Returns what was
/// computed when, in seconds from the call, as the simulation has it.
std::vector<Span> run_pipeline(const Pipeline& pipeline, Communicator& ranks, StageWork& work);

}  // namespace sluice
