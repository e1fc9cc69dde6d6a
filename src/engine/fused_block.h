// A block of the inference engine on a GPU, for weights in bf16, FP8 and block formats: what engine/layers.h does, in
// half as many launches, which are most of the time of a pass over a few rows (ops/fused.h).
#pragma once
#include "engine/layers.h"

namespace sluice {

/// Whether it is made for a block with weights as they lie on `gpu`: rounded ones, of widths for vectors, with a
/// projection of latent queries.
bool has_fused_ops(const BlockWeights& w, const HfConfig& config, const Device& gpu);

/// infer_block() of such a block, b.heads set.
void fused_block(Stream& s, Arena& a, Tensor h_TD, const InferBlock& b, const Tensor& cache, const InferPass& pass);

}  // namespace sluice
