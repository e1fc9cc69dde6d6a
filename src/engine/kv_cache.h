// The latent KV cache (specification 2.7): per token and layer one row [latent after its norm | rope key after RoPE].
// Memory is dealt out in pages of kPageTokens tokens, which hold the rows of those tokens in every layer, so that
// sequences of any length share it without copies.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "base/arena.h"
#include "base/stream.h"
#include "ops/infer.h"

namespace sluice {

/// Owner of the pages. System memory is taken when a page is first written, a GPU's at once. A page belongs to
/// everybody who holds a reference to it; who shares it only reads.
class KvCache {
 public:
  /// `layers` rows of `width` float32 per token, and at most `pages` pages; in the memory of `gpu`'s device, or in the
  /// host's where it is null. On a GPU rows may be bf16.
  KvCache(int64_t layers, int64_t width, int64_t pages, Stream* gpu = nullptr, DType dtype = DType::f32);

  /// Memory that such a cache takes.
  static size_t bytes(int64_t layers, int64_t width, int64_t pages, DType dtype = DType::f32);

  /// A free page with one reference, contents undefined. Throws Error when all are in use.
  int32_t acquire();
  /// One more reference to a page in use.
  void retain(int32_t page);
  /// One less; the page is free when it was the last.
  void release(int32_t page);
  /// Says that one of the page's references is the prefix cache's, until release() takes its last.
  void mark_cached(int32_t page);

  int64_t pages() const { return static_cast<int64_t>(uses_.size()); }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
  /// Pages that the prefix cache alone holds.
  int64_t idle_pages() const { return idle_; }
  bool is_idle(int32_t page) const { return is_idle(uses_[static_cast<size_t>(page)]); }

  /// All rows of a layer: (pages * kPageTokens, width) of dtype().
  const Tensor& layer(int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }
  int64_t layers() const { return static_cast<int64_t>(layers_.size()); }
  int64_t width() const { return layers_.front().cols(); }
  DType dtype() const { return layers_.front().dtype; }

  /// The first host.rows() rows of a page in a layer, from and to host memory (rows, width) of dtype(). The page is
  /// nobody else's meanwhile.
  void read(int64_t layer, int32_t page, const Tensor& host) const;
  void write(int64_t layer, int32_t page, const Tensor& host);

 private:
  struct Use {
    int32_t references = 0;
    bool is_cached = false;
  };
  static bool is_idle(const Use& u) { return u.is_cached && u.references == 1; }

  Tensor rows_of(int64_t layer, int32_t page, int64_t rows) const;

  std::unique_ptr<Stream> copies_;  // of a GPU: pages go in and out beside the passes, on any thread
  Arena memory_;
  std::vector<Tensor> layers_;
  std::vector<int32_t> free_;  // taken from the back
  std::vector<Use> uses_;      // by page
  int64_t idle_ = 0;
};

}  // namespace sluice
