#include "engine/lookup.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/rng.h"

namespace sluice {
namespace {

using Ids = std::vector<int32_t>;

Ids draft(const Ids& ids, int64_t most = 3) {
  const auto found = lookup_draft(ids, most);
  return {found.begin(), found.end()};
}

TEST(LookupDraft, GivesWhatFollowedTheLastThree) {
  EXPECT_EQ(draft({1, 2, 3, 4, 5, 6, 7, 1, 2, 3}), (Ids{4, 5, 6}));
  EXPECT_EQ(draft({1, 2, 3, 4, 5, 6, 7, 1, 2, 3}, 1), (Ids{4}));
  EXPECT_EQ(draft({1, 2, 3, 4, 5, 6, 7, 1, 2, 3}, 100), (Ids{4, 5, 6, 7, 1, 2, 3}));
  EXPECT_EQ(draft({1, 2, 3, 4, 9, 1, 2, 3, 5, 9, 1, 2, 3}), (Ids{5, 9, 1}));  // the latest place
}

TEST(LookupDraft, GivesWhatFollowedTheLastTwo) {
  EXPECT_EQ(draft({2, 3, 4, 5, 6, 2, 3}), (Ids{4, 5, 6}));
  EXPECT_EQ(draft({2, 3, 4, 2, 3, 5, 2, 3}), (Ids{5, 2, 3}));              // the latest place
  EXPECT_EQ(draft({1, 2, 3, 4, 9, 2, 3, 5, 9, 1, 2, 3}), (Ids{4, 9, 2}));  // three before two, though it is older
}

TEST(LookupDraft, OverlapsItself) {
  EXPECT_EQ(draft({7, 7, 7}), (Ids{7}));
  EXPECT_EQ(draft({7, 7, 7, 7}), (Ids{7}));
  EXPECT_EQ(draft({1, 2, 1, 2, 1, 2}), (Ids{1, 2}));
}

TEST(LookupDraft, FindsNothing) {
  for (const Ids& ids : std::vector<Ids>{{}, {1}, {1, 1}, {1, 2}, {1, 2, 1}, {1, 2, 3, 4, 5}, {3, 1, 2, 4, 2}})
    EXPECT_EQ(draft(ids), Ids{}) << ids.size();
  EXPECT_EQ(draft({1, 2, 3, 1, 2}, 0), Ids{});
  EXPECT_EQ(draft({1, 2, 3, 1, 2}, -1), Ids{});
}

TEST(LookupDraft, IsPartOfTheText) {
  const Ids ids = {1, 2, 3, 4, 1, 2, 3};
  EXPECT_EQ(lookup_draft(ids, 2).data(), ids.data() + 3);
}

/// The definition: the latest i at which the last `length` tokens stand before ids[i], or the end.
size_t place(const Ids& ids, size_t length) {
  const size_t n = ids.size();
  for (size_t i = n; i-- > length;)
    if (std::equal(ids.end() - static_cast<ptrdiff_t>(length), ids.end(),
                   ids.begin() + static_cast<ptrdiff_t>(i - length)))
      return i;
  return n;
}

TEST(LookupDraft, FollowsTheDefinition) {
  Rng rng(4);
  for (int k = 0; k < 20000; ++k) {
    Ids ids(rng.below(24));
    for (int32_t& id : ids) id = static_cast<int32_t>(rng.below(3));
    size_t begin = place(ids, 3);
    if (begin == ids.size()) begin = place(ids, 2);
    Ids expected(ids.begin() + static_cast<ptrdiff_t>(begin), ids.end());
    if (expected.size() > 3) expected.resize(3);
    ASSERT_EQ(draft(ids), expected) << testing::PrintToString(ids);
  }
}

}  // namespace
}  // namespace sluice
