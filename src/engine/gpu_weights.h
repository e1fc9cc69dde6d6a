// The weights of a model in the memory of a GPU.
#pragma once
#include <unordered_map>

#include "model/model.h"
#include "ops/fused.h"

namespace sluice {

/// Owner of a copy of them: matrices that enter products packed (ops/packed.h), with the experts of a layer equally far
/// apart; embedding, kv_b and biases as they are, block formats and kv_b's codes as bf16. Norms are not copied: these
/// matrices are the model's.
class GpuWeights {
 public:
  /// `s` is a stream of the GPU. Throws Error when the GPU has too little memory.
  GpuWeights(Stream& s, const Model& model);

  const ModelWeights& weights() const { return weights_; }
  /// kv_b by head, of blocks that the fused ops are for (engine/fused_block.h); null: they are not.
  const PackedHeads* heads(const BlockWeights& block) const;

  /// The same shapes and formats without data.
  static ModelWeights shapes(const ModelWeights& w, const Device& gpu);
  /// Bytes of memory that such a copy takes.
  static size_t bytes(const ModelWeights& w, const HfConfig& config, const Device& gpu);

 private:
  ModelWeights weights_;
  Arena memory_;
  std::unordered_map<const void*, PackedHeads> heads_;  // by the data of kv_b
};

}  // namespace sluice
