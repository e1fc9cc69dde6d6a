// How often the experts of a model are chosen.
#pragma once
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "model/model.h"

namespace sluice {

/// How often the experts of a layer were chosen.
struct ExpertLoad {
  int64_t layer = 0;            // index of the block; num_hidden_layers: of the MTP module
  std::vector<int64_t> tokens;  // per expert
};

class ExpertCounter {
 public:
  /// For an engine of `model`, with 0 for every expert.
  explicit ExpertCounter(const Model& model);

  /// What an engine's observer of routing sees. Any thread, as load().
  void add(const Tensor& choice_TK, const Matrix& router);

  /// Layers that have experts, in order.
  std::vector<ExpertLoad> load() const;

 private:
  std::unordered_map<const void*, size_t> layer_of_router_;  // place in load_
  mutable std::mutex mutex_;                                 // guards what follows
  std::vector<ExpertLoad> load_;
};

}  // namespace sluice
