#include "engine/kv_cache.h"

#include <cstring>

#include "base/transfer.h"

namespace sluice {

KvCache::KvCache(int64_t layers, int64_t width, int64_t pages, Stream* gpu, DType dtype)
    : copies_(gpu ? std::make_unique<Stream>(gpu->device(), 1) : nullptr),
      memory_(bytes(layers, width, pages, dtype), gpu ? gpu->device() : Device()),
      uses_(static_cast<size_t>(pages)) {
  for (int64_t l = 0; l < layers; ++l) layers_.push_back(memory_.alloc(dtype, {pages * kPageTokens, width}));
  for (int64_t p = pages; p-- > 0;) free_.push_back(static_cast<int32_t>(p));
}

size_t KvCache::bytes(int64_t layers, int64_t width, int64_t pages, DType dtype) {
  return static_cast<size_t>(layers) * (static_cast<size_t>(pages * kPageTokens * width) * dtype_size(dtype) + 64);
}

Tensor KvCache::rows_of(int64_t layer, int32_t page, int64_t rows) const {
  check(rows <= kPageTokens, "KvCache: expected rows of a page");
  return this->layer(layer).slice_rows(page * kPageTokens, rows);
}

void KvCache::read(int64_t layer, int32_t page, const Tensor& host) const {
  const Tensor rows = rows_of(layer, page, host.rows());
  if (copies_)
    download(*copies_, host, rows);
  else
    std::memcpy(host.data, rows.data, rows.bytes());
}

void KvCache::write(int64_t layer, int32_t page, const Tensor& host) {
  const Tensor rows = rows_of(layer, page, host.rows());
  if (copies_)
    upload(*copies_, rows, host);
  else
    std::memcpy(rows.data, host.data, rows.bytes());
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
