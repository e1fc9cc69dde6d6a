// The latent KV cache (specification 2.7): per token and layer one row [latent after its norm | rope key after RoPE].
// Memory is dealt out in pages of kPageTokens tokens, which hold the rows of those tokens in every layer, so that
// sequences of any length share it without copies.
#pragma once
#include <cstdint>
#include <vector>

#include "base/arena.h"
#include "ops/infer.h"

namespace sluice {

/// Owner of the pages. System memory is taken when a page is first written.
class KvCache {
 public:
  /// `layers` rows of `width` float32 per token, and at most `pages` pages.
  KvCache(int64_t layers, int64_t width, int64_t pages);

  /// A free page, contents undefined. Throws Error when all are in use.
  int32_t acquire();
  void release(int32_t page);
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }

  /// All rows of a layer: (pages * kPageTokens, width) f32.
  const Tensor& layer(int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }

 private:
  Arena memory_;
  std::vector<Tensor> layers_;
  std::vector<int32_t> free_;  // taken from the back
};

}  // namespace sluice
