#include "parallel/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "base/rng.h"

namespace sluice {
namespace {

std::string text(const std::vector<Action>& list) {
  std::string out;
  for (const Action& a : list) out += (out.empty() ? "" : " ") + action_name(a);
  return out;
}

int below(Rng& rng, int n) { return static_cast<int>(rng.below(static_cast<uint64_t>(n))); }

/// A random pipeline that the schedule allows.
Pipeline random_pipeline(Schedule schedule, Rng& rng) {
  const bool is_dualpipe = schedule == Schedule::dualpipe;
  const int ranks = is_dualpipe ? 2 + 2 * below(rng, 6) : 1 + below(rng, 12);
  const int least = is_dualpipe || schedule == Schedule::dualpipev ? 2 * ranks : 1;
  const int micros = least + below(rng, 40);
  return {schedule, ranks, is_dualpipe ? micros / 2 * 2 : micros};
}

std::string error_of(Schedule schedule, int ranks, int micros) {
  try {
    Pipeline(schedule, ranks, micros);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(Schedule, DualPipeOfFourRanksAndEightMicroBatchesIsThePublishedOne) {
  const Pipeline p(Schedule::dualpipe, 4, 8);
  EXPECT_EQ(text(p.actions(0)), "F0a F1a F2a F0b Bi0b W0b F1b F3a+B1b F2b+B0a B2b F3b+B1a B3b Bi2a W2a Bi3a W3a");
  EXPECT_EQ(text(p.actions(1)), "F0a F0b F1a F1b F2a B0b F2b+B0a F3a+B1b F3b+B1a B2b B2a Bi3b Bi3a W3b W3a");
  EXPECT_EQ(text(p.actions(2)), "F0b F0a F1b F1a F2b B0a F2a+B0b F3b+B1a F3a+B1b B2a B2b Bi3a Bi3b W3a W3b");
  EXPECT_EQ(text(p.actions(3)), "F0b F1b F2b F0a Bi0a W0a F1a F3b+B1a F2a+B0b B2a F3a+B1b B3a Bi2b W2b Bi3b W3b");
}

TEST(Schedule, OneForwardOneBackward) {
  const Pipeline p(Schedule::one_f_one_b, 3, 4);
  EXPECT_EQ(text(p.actions(0)), "F0a F1a F2a B0a F3a B1a B2a B3a");
  EXPECT_EQ(text(p.actions(1)), "F0a F1a B0a F2a B1a F3a B2a B3a");
  EXPECT_EQ(text(p.actions(2)), "F0a B0a F1a B1a F2a B2a F3a B3a");
}

TEST(Schedule, Zb1pPutsWeightGradientsOffByTheRank) {
  const Pipeline p(Schedule::zb1p, 3, 4);
  EXPECT_EQ(text(p.actions(0)), "F0a F1a F2a Bi0a W0a F3a Bi1a W1a Bi2a W2a Bi3a W3a");
  EXPECT_EQ(text(p.actions(1)), "F0a F1a Bi0a F2a Bi1a W0a F3a Bi2a W1a Bi3a W2a W3a");
  EXPECT_EQ(text(p.actions(2)), "F0a Bi0a F1a Bi1a F2a Bi2a W0a F3a Bi3a W1a W2a W3a");
}

TEST(Schedule, DualPipeVIsTheFirstHalfOfADualPipeOfTwice) {
  for (const auto& [ranks, micros] : {std::pair{1, 2}, {2, 4}, {2, 7}, {3, 6}, {4, 8}, {5, 23}, {8, 20}})
    for (int rank = 0; rank < ranks; ++rank)
      EXPECT_EQ(Pipeline(Schedule::dualpipev, ranks, micros).actions(rank),
                Pipeline(Schedule::dualpipe, 2 * ranks, 2 * micros).actions(rank))
          << ranks << " " << micros << " " << rank;
}

TEST(Schedule, EveryActionComesOnceAndInOrder) {
  Rng rng(1);
  for (int trial = 0; trial < 200; ++trial) {
    const Pipeline p = random_pipeline(all_schedules()[static_cast<size_t>(trial % 4)], rng);
    for (int rank = 0; rank < p.ranks(); ++rank) {
      std::map<std::pair<int, int>, std::string> seen;  // by chunk and micro-batch: what has been done, in order
      for (const Action& a : p.actions(rank)) {
        std::string& own = seen[{a.chunk, a.micro}];
        own += a.step == Step::FB || a.step == Step::F ? "F" : a.step == Step::W ? "W" : a.step == Step::Bi ? "i" : "B";
        if (a.step == Step::FB) seen[{a.other_chunk, a.other_micro}] += "B";
      }
      EXPECT_EQ(seen.size(), static_cast<size_t>(p.chunks() * p.chunk_micros()));
      for (const auto& [key, done] : seen) EXPECT_TRUE(done == "FB" || done == "FiW") << done;
    }
  }
}

TEST(Pipeline, EveryPathGoesThroughAllStages) {
  Rng rng(2);
  for (int trial = 0; trial < 100; ++trial) {
    const Pipeline p = random_pipeline(all_schedules()[static_cast<size_t>(trial % 4)], rng);
    for (const Place first : p.holders(0)) {
      Place at = first;
      EXPECT_TRUE(p.is_first(at));
      EXPECT_FALSE(p.previous(at));
      for (int stage = 0; stage < p.stages(); ++stage) {
        EXPECT_EQ(p.stage(at), stage);
        const std::vector<Place> holders = p.holders(stage);
        EXPECT_NE(std::find(holders.begin(), holders.end(), at), holders.end());
        EXPECT_EQ(p.is_last(at), stage == p.stages() - 1);
        if (p.is_last(at)) break;
        const Place from = at;
        ASSERT_TRUE(p.next(at));
        at = *p.next(at);
        EXPECT_EQ(p.previous(at), from);
      }
      EXPECT_FALSE(p.next(at));
    }
  }
}

TEST(Pipeline, EachRankHoldsItsStages) {
  const Pipeline v(Schedule::dualpipev, 4, 8), dual(Schedule::dualpipe, 4, 8), one(Schedule::zb1p, 4, 8);
  EXPECT_EQ(v.stages(), 8);
  EXPECT_EQ(v.stage({1, 0}), 1);
  EXPECT_EQ(v.stage({1, 1}), 6);
  EXPECT_EQ(v.next({3, 0}), (Place{3, 1}));
  EXPECT_EQ(v.chunk_micros(), 8);
  EXPECT_EQ(dual.stages(), 4);
  EXPECT_EQ(dual.stage({1, 1}), 2);
  EXPECT_EQ(dual.holders(2), (std::vector<Place>{{2, 0}, {1, 1}}));
  EXPECT_EQ(dual.chunk_micros(), 4);
  EXPECT_EQ(one.chunks(), 1);
  EXPECT_EQ(one.next({3, 0}), std::nullopt);
}

TEST(Pipeline, WrongSizesAreOneLine) {
  EXPECT_EQ(error_of(Schedule::dualpipe, 3, 8), "dualpipe: expected an even number of ranks, found 3");
  EXPECT_EQ(error_of(Schedule::dualpipe, 4, 9), "dualpipe: expected an even number of micro-batches, found 9");
  EXPECT_EQ(error_of(Schedule::dualpipe, 4, 6), "dualpipe: 4 ranks need at least 8 micro-batches, found 6");
  EXPECT_EQ(error_of(Schedule::dualpipev, 3, 5), "dualpipev: 3 ranks need at least 6 micro-batches, found 5");
  EXPECT_EQ(error_of(Schedule::one_f_one_b, 0, 1), "1f1b: expected 1 to 4096 ranks, found 0");
  EXPECT_EQ(error_of(Schedule::zb1p, 2, 0), "zb1p: expected 1 to 1048576 micro-batches, found 0");
  EXPECT_EQ(error_of(Schedule::zb1p, 2, 1), "");
  EXPECT_THROW(parse_schedule("gpipe"), Error);
  for (const Schedule s : all_schedules()) EXPECT_EQ(parse_schedule(std::string(schedule_name(s))), s);
}

}  // namespace
}  // namespace sluice
