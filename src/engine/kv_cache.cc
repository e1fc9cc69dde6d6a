#include "engine/kv_cache.h"

namespace sluice {

KvCache::KvCache(int64_t layers, int64_t width, int64_t pages)
    : memory_(static_cast<size_t>(layers) * (static_cast<size_t>(pages * kPageTokens * width) * sizeof(float) + 64)) {
  for (int64_t l = 0; l < layers; ++l) layers_.push_back(memory_.f32(pages * kPageTokens, width));
  for (int64_t p = pages; p-- > 0;) free_.push_back(static_cast<int32_t>(p));
}

int32_t KvCache::acquire() {
  if (free_.empty()) fail("context: all {} tokens of the cache are in use", layers_.front().rows());
  const int32_t page = free_.back();
  free_.pop_back();
  return page;
}

void KvCache::release(int32_t page) { free_.push_back(page); }

}  // namespace sluice
