#include "tokenizer/bpe.h"

#include <algorithm>
#include <bit>

#include "base/error.h"

namespace sluice {
namespace {

/// Below this many ids scanning beats a heap.
constexpr size_t kScanLimit = 64;

/// Scans for the best pair after every merge: O(n^2), for short pieces.
void merge_by_scan(const MergeTable& table, std::vector<int32_t>& ids, BpeScratch& scratch) {
  auto& ranks = scratch.ranks;  // of the pair (i, i + 1)
  size_t n = ids.size();
  ranks.resize(n);
  const auto look_up = [&](size_t i) { ranks[i] = table.rank(ids[i], ids[i + 1]); };
  for (size_t i = 0; i + 1 < n; ++i) look_up(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i)
      if (ranks[i] < ranks[best]) best = i;
    if (ranks[best] == MergeTable::kNoRank) break;
    ids[best] = table.merged(ranks[best]);
    for (size_t i = best + 1; i + 1 < n; ++i) {
      ids[i] = ids[i + 1];
      ranks[i] = ranks[i + 1];
    }
    --n;
    if (best > 0) look_up(best - 1);
    if (best + 1 < n) look_up(best);
  }
  ids.resize(n);
}

/// A linked list of ids and a heap of candidate pairs, of which stale ones are dropped when they come up.
void merge_by_heap(const MergeTable& table, std::vector<int32_t>& ids, BpeScratch& scratch) {
  using Candidate = BpeScratch::Candidate;
  constexpr int32_t kGone = -1;
  const size_t n = ids.size();
  auto &next = scratch.next, &previous = scratch.previous;
  auto& heap = scratch.heap;
  next.resize(n);
  previous.resize(n);
  heap.clear();
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  };
  const auto add = [&](size_t i) {
    const uint32_t rank = table.rank(ids[i], ids[next[i]]);
    if (rank == MergeTable::kNoRank) return;
    heap.push_back({rank, i});
    std::push_heap(heap.begin(), heap.end(), later);
  };
  for (size_t i = 0; i < n; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;  // of the first one: never used
  }
  for (size_t i = 0; i + 1 < n; ++i) add(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Candidate top = heap.back();
    heap.pop_back();
    const size_t i = top.at;
    if (ids[i] == kGone || next[i] == n) continue;
    const size_t right = next[i];
    if (table.rank(ids[i], ids[right]) != top.rank) continue;
    ids[i] = table.merged(top.rank);
    ids[right] = kGone;
    next[i] = next[right];
    if (next[i] < n) {
      previous[next[i]] = i;
      add(i);
    }
    if (i > 0) add(previous[i]);
  }
  std::erase(ids, kGone);
}

}  // namespace

MergeTable::MergeTable(size_t pairs) : slots_(std::bit_ceil(2 * pairs + 16), kEmpty), mask_(slots_.size() - 1) {}

void MergeTable::insert(int32_t left, int32_t right, int32_t merged) {
  check(merged_.size() < kMaxMerges, "MergeTable: expected fewer merges");
  merged_.push_back(merged);
  insert_again(left, right);
}

void MergeTable::insert_again(int32_t left, int32_t right) {
  const uint64_t key = key_of(left, right);
  size_t i = slot_of(key);
  while (slots_[i] != kEmpty && slots_[i] >> kRankBits != key) i = (i + 1) & mask_;
  slots_[i] = key << kRankBits | (merged_.size() - 1);
}

void bpe_merge(const MergeTable& table, std::vector<int32_t>& ids, BpeScratch& scratch) {
  if (ids.size() <= kScanLimit) {
    merge_by_scan(table, ids, scratch);
  } else {
    merge_by_heap(table, ids, scratch);
  }
}

}  // namespace sluice
