#include "engine/prefix_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/rng.h"

namespace sluice::test {
namespace {

using Ids = std::vector<int32_t>;

/// Tokens of pages that are all one id.
Ids pages_of(const std::vector<int32_t>& letters) {
  Ids ids;
  for (const int32_t letter : letters) ids.insert(ids.end(), kPageTokens, letter);
  return ids;
}

/// Computes, caches and lets go of what is not cached yet of `letters`; returns its pages.
std::vector<int32_t> compute(KvCache& cache, PrefixCache& prefixes, const std::vector<int32_t>& letters) {
  const Ids ids = pages_of(letters);
  std::vector<int32_t> pages = prefixes.find(ids).pages;
  while (pages.size() < letters.size()) pages.push_back(cache.acquire());
  EXPECT_EQ(prefixes.insert(ids, pages), pages);
  for (const int32_t page : pages) cache.release(page);
  return pages;
}

int64_t cached(const PrefixCache& prefixes, const std::vector<int32_t>& letters) {
  return prefixes.length(pages_of(letters)).pages;
}

TEST(KvCache, PagesAreFreeWhenNobodyHoldsThem) {
  KvCache cache(1, 4, 3);
  const int32_t a = cache.acquire(), b = cache.acquire(), c = cache.acquire();
  EXPECT_THROW(cache.acquire(), Error);
  cache.retain(a);
  cache.release(a);
  EXPECT_EQ(cache.free_pages(), 0);
  cache.mark_cached(b);
  EXPECT_EQ(cache.idle_pages(), 1);
  cache.retain(b);
  EXPECT_EQ(cache.idle_pages(), 0);
  EXPECT_FALSE(cache.is_idle(b));
  cache.release(b);
  EXPECT_TRUE(cache.is_idle(b));
  cache.release(b);
  EXPECT_EQ(cache.idle_pages(), 0);
  cache.release(a);
  EXPECT_EQ(cache.free_pages(), 2);
  EXPECT_EQ(cache.acquire(), a);  // not cached any more
  EXPECT_EQ(cache.acquire(), b);
  EXPECT_EQ(cache.idle_pages(), 0);
  for (const int32_t page : {a, b, c}) cache.release(page);
  EXPECT_THROW(cache.release(a), Bug);
  EXPECT_THROW(cache.retain(a), Bug);
}

TEST(PrefixCache, FindsTheLongestBeginning) {
  KvCache cache(1, 4, 20);
  PrefixCache prefixes(cache, nullptr);
  const auto pages = compute(cache, prefixes, {1, 2, 3});
  compute(cache, prefixes, {1, 2, 4});
  compute(cache, prefixes, {5});
  EXPECT_EQ(cache.idle_pages(), 5);  // 1 and 2 are shared
  EXPECT_EQ(cached(prefixes, {1, 2, 3, 9}), 3);
  EXPECT_EQ(cached(prefixes, {1, 2, 9, 3}), 2);
  EXPECT_EQ(cached(prefixes, {2}), 0);
  Ids ids = pages_of({1, 2, 3});
  EXPECT_EQ(prefixes.find(std::span(ids).first(0)).pages.size(), 0u);
  ids.pop_back();  // pages that are not full are not found
  const auto found = prefixes.find(ids);
  EXPECT_EQ(found.pages, std::vector<int32_t>(pages.begin(), pages.begin() + 2));
  EXPECT_EQ(cache.idle_pages(), 3);
  ids = pages_of({1, 2, 3});
  EXPECT_EQ(prefixes.length(ids).idle, 1);
  ids[100] = 7;  // one token in the second page
  EXPECT_EQ(prefixes.length(ids).pages, 1);
  for (const int32_t page : found.pages) cache.release(page);
}

TEST(PrefixCache, PagesComputedTwiceAreCachedOnce) {
  KvCache cache(1, 4, 20);
  PrefixCache prefixes(cache, nullptr);
  const auto first = compute(cache, prefixes, {1, 2});
  std::vector<int32_t> again = {cache.acquire(), cache.acquire(), cache.acquire()};
  const auto now = prefixes.insert(pages_of({1, 2, 3}), again);
  EXPECT_EQ(now, (std::vector<int32_t>{first[0], first[1], again[2]}));
  for (const int32_t page : again) cache.release(page);
  EXPECT_EQ(cache.idle_pages(), 3);
  EXPECT_EQ(cache.free_pages(), 17);
}

TEST(PrefixCache, EvictsTheLeastRecentlyUsedEnd) {
  KvCache cache(1, 4, 20);
  PrefixCache prefixes(cache, nullptr);
  compute(cache, prefixes, {1, 2, 3});
  compute(cache, prefixes, {1, 4});
  compute(cache, prefixes, {5});
  const auto held = prefixes.find(pages_of({1, 2}));  // more recent than the others now
  EXPECT_TRUE(prefixes.evict());
  EXPECT_EQ(cached(prefixes, {1, 2, 3}), 2);
  EXPECT_TRUE(prefixes.evict());
  EXPECT_EQ(cached(prefixes, {1, 4}), 1);
  EXPECT_TRUE(prefixes.evict());
  EXPECT_EQ(cached(prefixes, {5}), 0);
  EXPECT_FALSE(prefixes.evict());  // the others are held
  cache.release(held.pages[1]);
  EXPECT_TRUE(prefixes.evict());
  EXPECT_EQ(cached(prefixes, {1, 2}), 1);
  cache.release(held.pages[0]);
  EXPECT_TRUE(prefixes.evict());
  EXPECT_EQ(cache.free_pages(), 20);
}

TEST(PrefixCache, GivesItsPagesBack) {
  KvCache cache(1, 4, 400);
  {
    PrefixCache prefixes(cache, nullptr);
    std::vector<int32_t> deep(300);
    for (int32_t i = 0; i < 300; ++i) deep[static_cast<size_t>(i)] = i % 7;
    compute(cache, prefixes, deep);
    compute(cache, prefixes, {3, 2});
    EXPECT_EQ(cache.free_pages(), 98);
  }
  EXPECT_EQ(cache.free_pages(), 400);
}

TEST(PrefixCache, AgreesWithALinearSearch) {
  // Few letters, so that paths meet; few pages, so that they are evicted. Some paths are held for a while.
  Rng rng(1);
  KvCache cache(1, 4, 30);
  PrefixCache prefixes(cache, nullptr);
  std::map<std::vector<int32_t>, int32_t> known;  // every path that was cached -> its page then
  std::vector<std::vector<int32_t>> held;
  for (int step = 0; step < 3000; ++step) {
    std::vector<int32_t> path(1 + rng.below(6));
    for (int32_t& letter : path) letter = static_cast<int32_t>(rng.below(3));
    const Ids ids = pages_of(path);
    std::vector<int32_t> pages = prefixes.find(ids).pages;
    for (size_t n = 1; n <= pages.size(); ++n)
      EXPECT_EQ(known.at({path.begin(), path.begin() + static_cast<int64_t>(n)}), pages[n - 1]);
    bool fits = true;
    while (fits && pages.size() < path.size()) {
      fits = cache.free_pages() > 0 || prefixes.evict();
      if (fits) pages.push_back(cache.acquire());
    }
    EXPECT_TRUE(fits || cache.idle_pages() == 0);
    const std::span<const int32_t> computed = std::span(ids).first(pages.size() * kPageTokens);
    EXPECT_EQ(prefixes.insert(computed, pages), pages);
    for (size_t n = 1; n <= pages.size(); ++n)
      known[{path.begin(), path.begin() + static_cast<int64_t>(n)}] = pages[n - 1];
    held.push_back(pages);
    while (held.size() > rng.below(6)) {
      const size_t i = rng.below(held.size());
      for (const int32_t page : held[i]) cache.release(page);
      held.erase(held.begin() + static_cast<int64_t>(i));
    }
  }
  for (const auto& pages : held)
    for (const int32_t page : pages) cache.release(page);
  EXPECT_EQ(cache.free_pages() + cache.idle_pages(), 30);
  while (prefixes.evict()) {
  }
  EXPECT_EQ(cache.free_pages(), 30);
}

}  // namespace
}  // namespace sluice::test
