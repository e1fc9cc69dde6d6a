#include "engine/kv_cache.h"

namespace sluice {

KvCache::KvCache(int64_t layers, int64_t width, int64_t pages)
    : memory_(static_cast<size_t>(layers) * (static_cast<size_t>(pages * kPageTokens * width) * sizeof(float) + 64)),
      uses_(static_cast<size_t>(pages)) {
  for (int64_t l = 0; l < layers; ++l) layers_.push_back(memory_.f32(pages * kPageTokens, width));
  for (int64_t p = pages; p-- > 0;) free_.push_back(static_cast<int32_t>(p));
}

int32_t KvCache::acquire() {
  if (free_.empty()) fail("context: all {} tokens of the cache are in use", layers_.front().rows());
  const int32_t page = free_.back();
  free_.pop_back();
  uses_[static_cast<size_t>(page)] = {1, false};
  return page;
}

void KvCache::retain(int32_t page) {
  Use& u = uses_[static_cast<size_t>(page)];
  check(u.references > 0, "KvCache::retain: expected a page in use");
  idle_ -= is_idle(u);
  ++u.references;
}

void KvCache::release(int32_t page) {
  Use& u = uses_[static_cast<size_t>(page)];
  check(u.references > 0, "KvCache::release: expected a page in use");
  idle_ -= is_idle(u);
  if (--u.references == 0) free_.push_back(page);
  idle_ += is_idle(u);
}

void KvCache::mark_cached(int32_t page) {
  Use& u = uses_[static_cast<size_t>(page)];
  check(u.references > 0 && !u.is_cached, "KvCache::mark_cached: expected a page in use that is not cached");
  u.is_cached = true;
  idle_ += is_idle(u);
}

}  // namespace sluice
