// The weights of a model in the memory of a GPU.
#pragma once
#include "model/model.h"

namespace sluice {

/// Owner of a copy of them: matrices that enter products packed (ops/packed.h), with the experts of a layer equally far
/// apart; embedding, kv_b and biases as they are, block formats and kv_b's codes as bf16. Norms are not copied: these
/// matrices are the model's.
class GpuWeights {
 public:
  /// `s` is a stream of the GPU. Throws Error when the GPU has too little memory.
  GpuWeights(Stream& s, const Model& model);

  const ModelWeights& weights() const { return weights_; }

  /// The same shapes and formats without data.
  static ModelWeights shapes(const ModelWeights& w, const Device& gpu);
  /// Bytes of memory that such a copy takes.
  static size_t bytes(const ModelWeights& w, const Device& gpu);

 private:
  ModelWeights weights_;
  Arena memory_;
};

}  // namespace sluice
