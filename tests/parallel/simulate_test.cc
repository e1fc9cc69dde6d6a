#include "parallel/simulate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <tuple>

#include "base/error.h"
#include "base/rng.h"

namespace sluice {
namespace {

constexpr StepSeconds kUnits{.F = 1, .B = 2, .Bi = 1, .W = 1, .FB = 3};

Timeline run(const Pipeline& p, const Costs& costs) { return simulate(p, all_actions(p), costs); }

/// The bubble that the schedule's formula gives (specification 6.5), for its number of stages.
double formula(Schedule schedule, int stages, const StepSeconds& t) {
  if (schedule == Schedule::one_f_one_b) return (stages - 1) * (t.F + t.B);
  if (schedule == Schedule::zb1p) return (stages - 1) * (t.F + t.B - 2 * t.W);
  return (stages / 2 - 1) * (t.FB + t.B - 3 * t.W);
}

int least_micros(Schedule schedule, int ranks) {
  return schedule == Schedule::one_f_one_b || schedule == Schedule::zb1p ? ranks : 2 * ranks;
}

TEST(Simulate, PublishedTotalsOfDualPipe) {
  struct Case {
    int ranks, micros;
    double total, bubble;
  };
  for (const Case& c : {Case{4, 8, 26, 2}, {8, 20, 66, 6}, {8, 32, 102, 6}, {16, 40, 134, 14}}) {
    const Timeline t = run({Schedule::dualpipe, c.ranks, c.micros}, uniform_costs(kUnits));
    EXPECT_DOUBLE_EQ(total_seconds(t), c.total) << c.ranks;
    for (int rank = 0; rank < c.ranks; ++rank) EXPECT_DOUBLE_EQ(bubble_seconds(t, rank), c.bubble) << c.ranks;
  }
}

/// Where a pair takes less than its parts, ranks with fewer pairs work longer, and the formula is that of the least
/// busy.
TEST(Simulate, BubblesAreThoseOfTheFormulas) {
  const StepSeconds longer{.F = 1.25, .B = 2.5, .Bi = 1.25, .W = 1.25, .FB = 3.75};
  const StepSeconds hidden{.F = 1.25, .B = 2.5, .Bi = 1.25, .W = 1.25, .FB = 3.5};
  for (const Schedule schedule : all_schedules())
    for (const int ranks : {4, 8, 16})
      for (const int more : {0, 2, 12, 40, 100})
        for (const StepSeconds& seconds : {kUnits, longer, hidden}) {
          const Pipeline p(schedule, ranks, least_micros(schedule, ranks) + more);
          const Timeline t = run(p, uniform_costs(seconds));
          std::vector<double> bubbles;
          for (int rank = 0; rank < ranks; ++rank) bubbles.push_back(bubble_seconds(t, rank));
          const auto [least, most] = std::minmax_element(bubbles.begin(), bubbles.end());
          const std::string what = fmt::format("{} P {} M {}", schedule_name(schedule), ranks, p.micros());
          EXPECT_NEAR(*most, formula(schedule, p.stages(), seconds), 1e-9) << what;
          if (seconds.FB == seconds.F + seconds.B) {
            EXPECT_NEAR(*least, *most, 1e-9) << what;
          }
        }
}

TEST(Simulate, PeakActivationsAreThoseOfTheTable) {
  for (const Schedule schedule : all_schedules())
    for (const int ranks : {4, 8, 16})
      for (const int more : {0, 2, 40}) {
        const Pipeline p(schedule, ranks, least_micros(schedule, ranks) + more);
        double peak = 0;
        for (const auto& list : all_actions(p)) peak = std::max(peak, peak_activations(list, std::array{1.0, 1.0}));
        EXPECT_EQ(peak, p.stages() + (p.chunks() == 2 ? 1 : 0))
            << schedule_name(schedule) << " P " << ranks << " M " << p.micros();
      }
}

TEST(Simulate, PeakActivationsOfChunksThatDiffer) {
  const std::vector<Action> list = {
      {Step::F, 0, 0}, {Step::F, 1, 0}, {Step::FB, 0, 1, 1, 0}, {Step::Bi, 0, 0}, {Step::W, 0, 0}};
  EXPECT_EQ(peak_activations(list, std::array{10.0, 1.0}), 21);
  EXPECT_EQ(peak_activations(list, std::array{1.0, 10.0}), 12);
}

/// Begin and end of the forward ('F'), input gradient ('B') and weight gradient ('W') of a micro-batch at a place.
using Times = std::map<std::tuple<char, int, int, int>, std::pair<double, double>>;

Times times_of(const Timeline& t) {
  Times times;
  for (int rank = 0; rank < static_cast<int>(t.ranks.size()); ++rank) {
    for (const Span& s : t.ranks[static_cast<size_t>(rank)]) {
      const auto add = [&](char kind, int chunk, int micro) {
        EXPECT_TRUE(times.insert({{kind, rank, chunk, micro}, {s.begin, s.end}}).second);
      };
      const Action& a = s.action;
      if (a.step == Step::F || a.step == Step::FB) add('F', a.chunk, a.micro);
      if (a.step == Step::FB) add('B', a.other_chunk, a.other_micro);
      if (a.step == Step::B || a.step == Step::Bi) add('B', a.chunk, a.micro);
      if (a.step == Step::W) add('W', a.chunk, a.micro);
    }
  }
  return times;
}

/// Random sizes, and times that differ by rank and action: every list ends, and nothing begins before what it needs.
TEST(Simulate, RandomPipelinesEnd) {
  Rng rng(3);
  const auto below = [&](int n) { return static_cast<int>(rng.below(static_cast<uint64_t>(n))); };
  for (int trial = 0; trial < 200; ++trial) {
    const Schedule schedule = all_schedules()[static_cast<size_t>(trial % 4)];
    const int ranks = 2 + 2 * below(7);
    const Pipeline p(schedule, ranks, least_micros(schedule, ranks) + 2 * below(20));
    Costs costs;
    costs.seconds = [&](int, const Action&) { return rng.uniform(); };
    costs.forward_message = rng.uniform();
    costs.backward_message = rng.uniform();
    const Timeline t = run(p, costs);
    for (int rank = 0; rank < ranks; ++rank)
      ASSERT_EQ(t.ranks[static_cast<size_t>(rank)].size(), p.actions(rank).size());
    const Times times = times_of(t);
    for (const auto& [key, time] : times) {
      const auto [kind, rank, chunk, micro] = key;
      const auto from = kind == 'F' ? p.previous({rank, chunk}) : p.next({rank, chunk});
      double least = 0;
      if (kind == 'W') {
        least = times.at({'B', rank, chunk, micro}).second;
      } else if (from) {
        const double message = kind == 'F' ? costs.forward_message : costs.backward_message;
        least = times.at({kind, from->rank, from->chunk, micro}).second + (from->rank == rank ? 0 : message);
      } else if (kind == 'B') {
        least = times.at({'F', rank, chunk, micro}).second;
      }
      ASSERT_GE(time.first, least) << kind << micro << " on rank " << rank;
    }
  }
}

TEST(Simulate, TurnsOfTwoPasses) {
  EXPECT_EQ(turns(3, 2), (std::vector<int>{0, 1, 0, 1, 0}));
  EXPECT_EQ(turns(1, 3), (std::vector<int>{0, 1, 1, 1}));
  EXPECT_EQ(turns(2, 0), (std::vector<int>{0, 0}));
}

/// Two phases of each pass, the first of which sends something that the second waits for.
Costs in_phases(double transfer) {
  Costs costs = uniform_costs(kUnits);
  costs.phases = [transfer](int, const StagePass& pass) {
    const double half = kUnits.of(pass.step) / 2;
    return std::vector<PhaseSeconds>{{half, transfer}, {half, 0, 0}};
  };
  return costs;
}

TEST(Simulate, NothingHidesTheTransfersOfAPassAlone) {
  const Pipeline p(Schedule::one_f_one_b, 4, 6);
  const StepSeconds longer{.F = 1.25, .B = 2.25, .Bi = 1.25, .W = 1, .FB = 3.5};
  const Timeline t = run(p, in_phases(0.25));
  EXPECT_DOUBLE_EQ(total_seconds(t), total_seconds(run(p, uniform_costs(longer))));
  for (int rank = 0; rank < 4; ++rank) EXPECT_NEAR(exposed_seconds(t, rank), 12 * 0.25, 1e-9);
}

TEST(Simulate, APairHidesItsTransfers) {
  const Pipeline p(Schedule::dualpipe, 4, 12);
  const Timeline t = run(p, in_phases(0.4));  // F's parts take 0.5
  for (int rank = 0; rank < 4; ++rank) {
    int alone = 0;
    for (const Action& a : p.actions(rank)) alone += a.step != Step::FB && a.step != Step::W;
    EXPECT_NEAR(exposed_seconds(t, rank), alone * 0.4, 1e-9) << rank;
  }
  EXPECT_EQ(span_name(t.ranks[0][1]), "F0a.1");
}

TEST(Simulate, ChainOfMessages) {
  const Pipeline p(Schedule::one_f_one_b, 3, 1);
  Costs costs = uniform_costs(kUnits);
  costs.forward_message = 10;
  costs.backward_message = 100;
  const Timeline t = run(p, costs);
  EXPECT_DOUBLE_EQ(t.ranks[2][0].begin, 1 + 10 + 1 + 10);
  EXPECT_DOUBLE_EQ(t.ranks[0][1].begin, 23 + 2 + 100 + 2 + 100);
  EXPECT_DOUBLE_EQ(total_seconds(t), 229);
}

TEST(Simulate, TheTurnOfDualPipeVNeedsNoMessage) {
  const Pipeline p(Schedule::dualpipev, 1, 2);
  Costs costs = uniform_costs(kUnits);
  costs.forward_message = costs.backward_message = 1000;
  EXPECT_LT(total_seconds(run(p, costs)), 100);
}

TEST(Simulate, ADeadlockIsNamed) {
  const Pipeline p(Schedule::one_f_one_b, 2, 2);
  auto lists = all_actions(p);
  std::swap(lists[1][0], lists[1][1]);  // a backward before its own forward
  try {
    simulate(p, lists, uniform_costs(kUnits));
    FAIL() << "expected an error";
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()), "1f1b: rank 0 would wait for ever to begin B0a");
  }
}

TEST(Simulate, PicturesOfATimeline) {
  const Timeline t = run({Schedule::dualpipe, 4, 8}, uniform_costs(kUnits));
  const std::string trace = chrome_trace(t), svg = timeline_svg(t);
  EXPECT_NE(trace.find(R"({"name":"F3a+B1b","ph":"X","ts":)"), std::string::npos);
  EXPECT_NE(trace.find(R"({"name":"rank 3"})"), std::string::npos);
  EXPECT_EQ(svg.rfind("<svg", 0), 0u);
  const auto count = [](const std::string& s, const std::string& part) {
    int n = 0;
    for (size_t at = s.find(part); at != std::string::npos; at = s.find(part, at + 1)) ++n;
    return n;
  };
  EXPECT_EQ(count(svg, "<title>"), 16 + 15 + 15 + 16);
  EXPECT_EQ(count(trace, "\"ph\":\"X\""), 16 + 15 + 15 + 16);
  EXPECT_EQ(count(svg, "26 s</text>"), 1);
  EXPECT_EQ(timeline_svg(Timeline{}).rfind("<svg", 0), 0u);
}

}  // namespace
}  // namespace sluice
