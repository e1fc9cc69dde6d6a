#include "engine/prefix_cache.h"

#include <algorithm>
#include <new>

namespace sluice {
namespace {

/// The tokens of page `index` of a sequence.
std::array<int32_t, kPageTokens> page_ids(std::span<const int32_t> ids, int64_t index) {
  std::array<int32_t, kPageTokens> page{};
  std::copy_n(ids.begin() + index * kPageTokens, kPageTokens, page.begin());
  return page;
}

int64_t full_pages(std::span<const int32_t> ids) { return static_cast<int64_t>(ids.size()) / kPageTokens; }

}  // namespace

PrefixCache::PrefixCache(KvCache& cache, PrefixStore* store)
    : cache_(cache), store_(store), nodes_(static_cast<size_t>(cache.pages())) {}

PrefixCache::~PrefixCache() {
  while (is_reading()) take_read(true);
  while (!leaves_.empty()) remove(leaves_.begin()->second);
}

int32_t PrefixCache::child(int32_t page, const PageIds& ids) const {
  const auto& children = node(page).children;
  const auto found = children.find(ids);
  return found == children.end() ? kRoot : found->second;
}

/// Takes over the caller's reference to the page; where it throws, nothing has changed.
void PrefixCache::add(int32_t parent, const PageIds& ids, int32_t page) {
  Node& n = node(page);
  n.place = node(parent).children.emplace(ids, page).first;
  try {
    leaves_.emplace(time_ + 1, page);
  } catch (...) {
    node(parent).children.erase(n.place);
    throw;
  }
  n.used = ++time_;
  if (parent != kRoot) leaves_.erase({node(parent).used, parent});
  n.parent = parent;
  n.key = node(parent).key.then(ids);
  n.is_from_store = false;
  cache_.mark_cached(page);
}

void PrefixCache::remove(int32_t page) {
  Node& n = node(page);
  leaves_.erase({n.used, page});
  auto& siblings = node(n.parent).children;
  siblings.erase(n.place);
  if (n.parent != kRoot && siblings.empty()) leaves_.emplace(node(n.parent).used, n.parent);
  cache_.release(page);
}

void PrefixCache::touch(int32_t page) {
  Node& n = node(page);
  const bool is_leaf = leaves_.erase({n.used, page}) > 0;
  n.used = ++time_;
  if (is_leaf) leaves_.emplace(n.used, page);
}

PrefixCache::Length PrefixCache::length(std::span<const int32_t> ids) const {
  Length length;
  for (int32_t page = kRoot; length.pages < full_pages(ids); ++length.pages) {
    page = child(page, page_ids(ids, length.pages));
    if (page == kRoot) break;
    length.idle += cache_.is_idle(page);
  }
  return length;
}

/// The last page of the longest beginning of `ids` that is in memory, of `pages` pages; kRoot: there is none.
int32_t PrefixCache::last_page(std::span<const int32_t> ids, int64_t& pages) const {
  int32_t page = kRoot;
  for (pages = 0; pages < full_pages(ids); ++pages) {
    const int32_t next = child(page, page_ids(ids, pages));
    if (next == kRoot) break;
    page = next;
  }
  return page;
}

bool PrefixCache::is_stored(std::span<const int32_t> ids) const {
  int64_t pages = 0;
  const int32_t last = last_page(ids, pages);
  return store_ && pages < full_pages(ids) && store_->contains(node(last).key.then(page_ids(ids, pages)));
}

std::optional<PrefixKey> PrefixCache::begin_reading(std::span<const int32_t> ids) {
  if (!store_) return std::nullopt;
  int64_t pages = 0;
  const int32_t begin = last_page(ids, pages);
  PrefixKey key = node(begin).key;
  if (begin != kRoot) touch(begin), cache_.retain(begin);  // not to be evicted for what follows it
  const auto prompt = std::make_shared<const std::vector<int32_t>>(ids.begin(), ids.end());
  std::optional<PrefixKey> last;
  for (; pages < full_pages(ids); ++pages) {
    key = key.then(page_ids(ids, pages));
    if (!reading_.contains(key)) {
      if (!store_->contains(key) || (cache_.free_pages() == 0 && !evict())) break;
      store_->load_later(key, prompt, static_cast<size_t>((pages + 1) * kPageTokens), cache_.acquire());
      reading_.insert(key);
    }
    last = key;
  }
  if (begin != kRoot) cache_.release(begin);
  return last;
}

void PrefixCache::take_read(bool wait) {
  if (reading_.empty()) return;
  if (wait) store_->wait_loaded();
  for (const PrefixStore::Loaded& l : store_->take_loaded()) {
    reading_.erase(l.key);
    int64_t pages = 0;
    const int32_t parent = last_page(l.ids, pages);
    bool is_kept = l.ok && pages + 1 == full_pages(l.ids);
    try {
      if (is_kept) add(parent, page_ids(l.ids, pages), l.page);
    } catch (const std::bad_alloc&) {  // the rest must be taken nevertheless
      is_kept = false;
    }
    if (is_kept) {
      node(l.page).is_from_store = true;
    } else {  // it is broken, or was computed meanwhile, or what comes before it is not there
      cache_.release(l.page);
    }
  }
}

PrefixCache::Found PrefixCache::find(std::span<const int32_t> ids) {
  Found found;
  int32_t parent = kRoot;
  for (int64_t index = 0; index < full_pages(ids); ++index) {
    const int32_t page = child(parent, page_ids(ids, index));
    if (page == kRoot) break;
    found.from_store += std::exchange(node(page).is_from_store, false);
    if (store_)
      store_->save(node(page).key, ids.first(static_cast<size_t>((index + 1) * kPageTokens)), page);  // in use
    touch(page);
    cache_.retain(page);
    found.pages.push_back(page);
    parent = page;
  }
  return found;
}

std::vector<int32_t> PrefixCache::insert(std::span<const int32_t> ids, std::span<const int32_t> pages) {
  check(ids.size() == pages.size() * kPageTokens, "PrefixCache::insert: expected the tokens of full pages");
  std::vector<int32_t> cached;
  int32_t parent = kRoot;
  for (size_t i = 0; i < pages.size(); ++i) {
    const PageIds key = page_ids(ids, static_cast<int64_t>(i));
    int32_t page = child(parent, key);
    if (page == kRoot) {
      page = pages[i];
      cache_.retain(page);
      add(parent, key, page);
      if (store_) store_->save(node(page).key, ids.first((i + 1) * kPageTokens), page);
    }
    cached.push_back(page);
    parent = page;
  }
  return cached;
}

bool PrefixCache::evict() {
  const auto found =
      std::find_if(leaves_.begin(), leaves_.end(), [&](const auto& leaf) { return cache_.is_idle(leaf.second); });
  if (found == leaves_.end()) return false;
  remove(found->second);
  return true;
}

}  // namespace sluice
