#include "tokenizer/bpe.h"

#include <gtest/gtest.h>

#include <map>

#include "base/rng.h"

namespace sluice {
namespace {

using Pair = std::pair<int32_t, int32_t>;

/// The definition itself.
std::vector<int32_t> merge_by_definition(const std::map<Pair, Pair>& ranks, std::vector<int32_t> ids) {
  for (;;) {
    Pair best{INT32_MAX, 0};  // rank, place
    for (size_t i = 0; i + 1 < ids.size(); ++i)
      if (const auto it = ranks.find({ids[i], ids[i + 1]}); it != ranks.end())
        best = std::min(best, Pair{it->second.first, static_cast<int32_t>(i)});
    if (best.first == INT32_MAX) return ids;
    const auto at = ids.begin() + best.second;
    *at = ranks.at({*at, *(at + 1)}).second;
    ids.erase(at + 1);
  }
}

TEST(Bpe, EqualsTheDefinitionForShortAndLongPieces) {
  Rng rng(3);
  BpeScratch scratch;
  for (int round = 0; round < 200; ++round) {
    constexpr int32_t kLetters = 4, kMerges = 60;
    std::map<Pair, Pair> ranks;
    MergeTable table(kMerges);
    for (int32_t rank = 0, id = kLetters; rank < kMerges; ++rank) {
      const Pair pair{rng.below(id), rng.below(id)};
      table.insert(pair.first, pair.second, id);
      ranks[pair] = {rank, id++};
    }
    for (const uint64_t size : {0, 1, 2, 3, 10, 63, 64, 65, 66, 300}) {
      std::vector<int32_t> ids;
      for (uint64_t i = 0; i < size; ++i) ids.push_back(static_cast<int32_t>(rng.below(round % 2 ? kLetters : 1)));
      const std::vector<int32_t> expected = merge_by_definition(ranks, ids);
      bpe_merge(table, ids, scratch);
      EXPECT_EQ(ids, expected);
    }
  }
}

TEST(Bpe, LargestIds) {
  MergeTable table(1);
  constexpr int32_t kLast = MergeTable::kMaxIds - 1;
  EXPECT_EQ(table.rank(kLast, kLast), MergeTable::kNoRank);
  table.insert(kLast, kLast, 7);
  EXPECT_EQ(table.rank(kLast, kLast), 0u);
  EXPECT_EQ(table.rank(kLast, kLast - 1), MergeTable::kNoRank);
  EXPECT_EQ(table.merged(0), 7);
}

}  // namespace
}  // namespace sluice
