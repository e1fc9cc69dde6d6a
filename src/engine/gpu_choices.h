// The experts that passes on a GPU choose, for an observer that looks at host memory.
#pragma once
#include <unordered_map>
#include <vector>

#include "engine/layers.h"

namespace sluice {

/// Collects choices in the GPU's memory while a pass is being queued, so that nothing waits for them layer by layer.
class GpuChoices {
 public:
  /// Of passes of up to `rows` rows over `there`, the copy of `host` on the device of `s`. Both must outlive it.
  GpuChoices(Stream& s, const ModelWeights& host, const ModelWeights& there, int64_t rows, int64_t top_k);

  /// A layer has chosen, or has recorded that it will.
  void add(const Tensor& choice_TK, const Matrix& router);
  /// The same of all layers of a pass of `rows` rows that was recorded, MTP modules apart.
  void add_recorded(int64_t rows);
  /// Shows `observer` what was added, in host memory and with the routers of the host's weights, and forgets it.
  void give(const RouteObserver& observer);
  /// Forgets it.
  void clear();

 private:
  struct Layer {
    const Matrix* router;
    int64_t rows, cols;
  };

  Stream& s_;
  std::vector<const Matrix*> layer_routers_;  // of the host, without those of MTP modules
  int64_t top_k_;
  std::unordered_map<const void*, const Matrix*> host_router_;  // by the data of the one on the GPU
  Arena memory_;
  Tensor choices_;  // of all layers, one after another
  int64_t used_ = 0;
  std::vector<Layer> layers_;
};

}  // namespace sluice
