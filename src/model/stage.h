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
  std::vector<MtpSaved> mtp = {};
  Tensor loss_T = {};  // after the backward pass, as in PassResult
  std::vector<Tensor> mtp_loss = {};
};

/// k.hidden has one element, the stage's input, except in the first stage; its last will be the output. counts_LE: rows
/// of the stage's routers += tokens per expert, unless empty.
void stage_forward(Stream& s, Arena& a, const Model& m, const StageRange& range, const Tensor& counts_LE,
                   StageSaved& k);

/// Whether the gradients of the layers' weights are added at once, or by stage_backward_weight(), until when what they
/// need stays in the arena. Those of embedding, norm, head and MTP modules are added at once.
enum class Weights : uint8_t { now, later };

/// The gradient of the stage's input from that of its output (of the last stage: from the losses), in memory of `a`.
Tensor stage_backward(Stream& s, Arena& a, const Model& m, const ModelWeights& grad, const StageRange& range,
                      Tensor dh_TD, Weights weights, StageSaved& k);
void stage_backward_weight(Stream& s, const Model& m, const ModelWeights& grad, const StageRange& range,
                           const StageSaved& k);

/// Per MoE layer of the stage, MTP blocks last: (B).
std::vector<Tensor> balance_losses(const StageSaved& k);

}  // namespace sluice
