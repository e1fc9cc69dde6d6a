#include "plan/stages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/rng.h"

namespace sluice {
namespace {

double busiest_rank(const std::vector<int>& sizes, const std::vector<double>& costs, double tail, const Pipeline& p) {
  std::vector<double> load(static_cast<size_t>(p.ranks()));
  size_t layer = 0;
  for (int stage = 0; stage < p.stages(); ++stage) {
    double cost = stage == p.stages() - 1 ? tail : 0;
    for (int i = 0; i < sizes[static_cast<size_t>(stage)]; ++i) cost += costs[layer++];
    for (const Place& place : p.holders(stage)) load[static_cast<size_t>(place.rank)] += cost;
  }
  EXPECT_EQ(layer, costs.size());
  return *std::max_element(load.begin(), load.end());
}

/// The best of all cuts, by trying them.
double best_of_all(std::vector<int>& sizes, size_t stage, int left, const std::vector<double>& costs, double tail,
                   const Pipeline& p) {
  if (stage + 1 == sizes.size()) {
    sizes[stage] = left;
    return busiest_rank(sizes, costs, tail, p);
  }
  double best = 1e300;
  for (sizes[stage] = 0; sizes[stage] <= left; ++sizes[stage]) {
    const int own = sizes[stage];
    best = std::min(best, best_of_all(sizes, stage + 1, left - own, costs, tail, p));
    sizes[stage] = own;
  }
  return best;
}

TEST(Stages, NoCutIsBetter) {
  Rng rng(7);
  for (int trial = 0; trial < 60; ++trial) {
    const Schedule schedule = all_schedules()[static_cast<size_t>(trial % 4)];
    const int ranks = schedule == Schedule::dualpipev ? 2 : 4;
    const Pipeline p(schedule, ranks, 2 * ranks);
    std::vector<double> costs(4 + rng.below(5));
    for (double& c : costs) c = 0.5 + rng.uniform();
    const double tail = 3 * rng.uniform();
    std::vector<int> sizes(static_cast<size_t>(p.stages()));
    const double best = best_of_all(sizes, 0, static_cast<int>(costs.size()), costs, tail, p);
    EXPECT_NEAR(busiest_rank(split_layers(costs, tail, p), costs, tail, p), best, 1e-9) << trial;
  }
}

TEST(Stages, AreOfOneSizeWhereThatCostsNothing) {
  const std::vector<double> costs(61, 1.0);
  std::vector<int> expected(16, 4);
  expected.back() = 1;
  EXPECT_EQ(split_layers(costs, 3, {Schedule::dualpipe, 16, 32}), expected);
  std::vector<int> folded(32, 2);
  folded.back() = 0;
  folded.front() = 1;
  EXPECT_EQ(split_layers(costs, 3, {Schedule::dualpipev, 16, 32}), folded);
  EXPECT_EQ(split_layers({1, 1, 1, 1}, 0, {Schedule::one_f_one_b, 1, 1}), std::vector<int>{4});
}

}  // namespace
}  // namespace sluice
