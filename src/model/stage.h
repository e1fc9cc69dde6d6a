// A stage of a pipeline: neighbouring layers of a model for one micro-batch, forward and backward. The whole model is
// the stage of all its layers. T = B S rows, D model.
#pragma once
#include <vector>

#include "model/model.h"

namespace sluice {

/// Layers [begin, end); from 0 on with the embedding, to the end with the last norm, the head and the MTP modules.
struct StageRange {
  int64_t begin, end;
  bool is_first() const { return begin == 0; }
  bool is_last(const Model& m) const { return end == static_cast<int64_t>(m.weights.layers.size()); }
};

/// What a micro-batch keeps in a stage, in the arena of its passes.
struct StageSaved {
  ModelBatch batch;
  PassOptions options;
  PassContext ctx = {};
  std::vector<Tensor> hidden = {};  // input of every layer, then the output of the last: (T, D)
  std::vector<BlockSaved> layers = {};
  // Of the last stage.
  Tensor normed_TD = {}, norm_r_T = {};
  std::vector<PassContext> mtp_ctx = {};
  std::vector<MtpSaved> mtp = {};
  Tensor loss_T = {};  // after the backward pass, as in PassResult
  std::vector<Tensor> mtp_loss = {};
  // Of the backward pass.
  Tensor dh_TD = {};      // gradient of the output of the block that is at work, at last of the stage's input
  Tensor dinput_TD = {};  // memory for that of the block's input
  Tensor dnormed_TD = {};
  MtpGradients dmtp = {};
};

/// The blocks of a stage are its layers and, of the last stage, the MTP modules. Four phases of each (model/block.h)
/// are the forward pass; the backward pass, from the last block to the first, has one before them.
int stage_forward_phases(const Model& m, const StageRange& range);
int stage_backward_phases(const Model& m, const StageRange& range);

/// Phase 0, 1, ... of a pass. k.hidden has one element, the stage's input, except in the first stage; its last will be
/// the output. counts_LE: rows of the stage's routers += tokens per expert, unless empty.
void stage_forward_phase(Stream& s, Arena& a, const Model& m, const StageRange& range, const Tensor& counts_LE,
                         StageSaved& k, int phase);
/// Returns when rows from other ranks that the phase needs are there; the phase itself would wait as well.
void stage_await_forward(const StageSaved& k, int phase);

/// Whether the gradients of the layers' weights are added in phases of the pass, or by stage_backward_weight(). Those
/// of embedding, norm, head, MTP modules, and of experts whose rows come in rounds are always added in the pass.
enum class Weights : uint8_t { now, later };
struct Backward {
  const ModelWeights& grad;
  Weights weights;
};

/// The gradient of the stage's input from that of its output, both in k.dh_TD (of the last stage: from the losses).
/// Everything that is allocated stays in `a`, so that gradients leave for the experts of the layer before as soon as
/// they are known, under the gradients of weights.
void stage_backward_phase(Stream& s, Arena& a, const Model& m, const Backward& backward, const StageRange& range,
                          StageSaved& k, int phase);
void stage_await_backward(const StageSaved& k, int phase);
void stage_backward_weight(Stream& s, const Model& m, const ModelWeights& grad, const StageRange& range,
                           const StageSaved& k);

/// The backward pass of the whole model at once; what a block leaves in `a` makes room for the next.
void model_backward(Stream& s, Arena& a, const Model& m, const ModelWeights& grad, StageSaved& k);

/// Per MoE layer of the stage, MTP blocks last: (B).
std::vector<Tensor> balance_losses(const StageSaved& k);

}  // namespace sluice
