#include "parallel/expert_placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "../base/temp_dir.h"
#include "base/rng.h"

namespace sluice {
namespace {

using Ints = std::vector<int32_t>;
using Loads = std::vector<int64_t>;

struct Case {
  Loads load;
  PlacementShape shape;
};

/// Loads as they are measured: a few experts are busy, some get nothing, some the same.
Loads random_load(Rng& rng, int64_t experts) {
  Loads load;
  for (int64_t e = 0; e < experts; ++e) {
    const uint64_t busy = rng.below(8) == 0 ? 4000 : 200;
    load.push_back(rng.below(10) == 0 ? 0 : static_cast<int64_t>(rng.below(busy)));
  }
  load[0] += 1;
  return load;
}

Case random_case(Rng& rng) {
  const auto up_to = [&](uint64_t n) { return static_cast<int64_t>(1 + rng.below(n)); };
  Case c;
  c.shape.groups = up_to(8);
  c.shape.nodes = up_to(4);
  c.shape.gpus = c.shape.nodes * up_to(6);
  c.load = random_load(rng, c.shape.groups * up_to(8));
  const int64_t E = static_cast<int64_t>(c.load.size());
  c.shape.replicas = ((E + c.shape.gpus - 1) / c.shape.gpus + static_cast<int64_t>(rng.below(4))) * c.shape.gpus;
  return c;
}

template <class F>
void for_random_cases(F&& check) {
  Rng rng(7);
  for (int i = 0; i < 3000; ++i) {
    const Case c = random_case(rng);
    SCOPED_TRACE(fmt::format("case {}: {} experts, {} replicas, {} groups, {} nodes, {} GPUs", i, c.load.size(),
                             c.shape.replicas, c.shape.groups, c.shape.nodes, c.shape.gpus));
    check(c, place_experts(c.load, c.shape));
    if (testing::Test::HasFailure()) return;
  }
}

TEST(ExpertPlacement, GivesTheExamplesOfTheSpecification) {
  const PlacementShape shape{.replicas = 16, .groups = 4, .nodes = 2, .gpus = 8};
  EXPECT_EQ(place_experts(Loads{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86}, shape).physical_to_logical,
            (Ints{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1}));
  EXPECT_EQ(place_experts(Loads{20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}, shape).physical_to_logical,
            (Ints{7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}));
}

TEST(ExpertPlacement, TablesAgree) {
  const ExpertPlacement p = place_experts(Loads{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
                                          {.replicas = 16, .groups = 4, .nodes = 2, .gpus = 8});
  EXPECT_EQ(p.counts, (Ints{1, 2, 1, 1, 2, 2, 1, 1, 1, 1, 2, 1}));
  EXPECT_EQ(p.most_copies, 2);
  EXPECT_EQ(p.logical_to_physical,
            (Ints{12, -1, 15, 13, 11, -1, 6, -1, 7, 5, 0, 2, 1, -1, 3, -1, 4, -1, 9, -1, 8, 10, 14, -1}));
  for_random_cases([](const Case& c, const ExpertPlacement& q) {
    ASSERT_EQ(q.physical_to_logical.size(), static_cast<size_t>(c.shape.replicas));
    ASSERT_EQ(q.counts.size(), c.load.size());
    ASSERT_EQ(q.logical_to_physical.size(), c.load.size() * static_cast<size_t>(q.most_copies));
    EXPECT_EQ(*std::max_element(q.counts.begin(), q.counts.end()), q.most_copies);
    std::set<int32_t> seen;
    for (size_t e = 0; e < c.load.size(); ++e) {
      EXPECT_GE(q.counts[e], 1);
      for (int64_t i = 0; i < q.most_copies; ++i) {
        const int32_t place = q.logical_to_physical[e * static_cast<size_t>(q.most_copies) + static_cast<size_t>(i)];
        ASSERT_EQ(place >= 0, i < q.counts[e]);
        if (place < 0) continue;
        EXPECT_TRUE(seen.insert(place).second);
        EXPECT_EQ(q.physical_to_logical.at(static_cast<size_t>(place)), static_cast<int32_t>(e));
      }
    }
    EXPECT_EQ(seen.size(), q.physical_to_logical.size());
  });
}

TEST(ExpertPlacement, HierarchicalKeepsGroupsOnNodes) {
  int several = 0;
  for_random_cases([&](const Case& c, const ExpertPlacement& p) {
    if (!c.shape.is_hierarchical()) return;
    several += c.shape.nodes > 1;
    const size_t of_node = p.physical_to_logical.size() / static_cast<size_t>(c.shape.nodes);
    const size_t of_group = c.load.size() / static_cast<size_t>(c.shape.groups);
    std::vector<std::set<size_t>> nodes(static_cast<size_t>(c.shape.groups)),
        groups(static_cast<size_t>(c.shape.nodes));
    for (size_t i = 0; i < p.physical_to_logical.size(); ++i) {
      const size_t group = static_cast<size_t>(p.physical_to_logical[i]) / of_group;
      nodes[group].insert(i / of_node);
      groups[i / of_node].insert(group);
    }
    for (const auto& n : nodes) EXPECT_EQ(n.size(), 1u);
    for (const auto& g : groups) EXPECT_EQ(g.size(), static_cast<size_t>(c.shape.groups / c.shape.nodes));
  });
  EXPECT_GT(several, 100);
}

TEST(ExpertPlacement, GlobalIsOneNodeAndOneGroup) {
  int global = 0;
  for_random_cases([&](const Case& c, const ExpertPlacement& p) {
    if (c.shape.is_hierarchical()) return;
    ++global;
    EXPECT_EQ(p.physical_to_logical,
              place_experts(c.load, {.replicas = c.shape.replicas, .gpus = c.shape.gpus}).physical_to_logical);
  });
  EXPECT_GT(global, 100);
}

TEST(ExpertPlacement, LoadsSumToAllTokens) {
  for_random_cases([](const Case& c, const ExpertPlacement& p) {
    const double total = static_cast<double>(std::accumulate(c.load.begin(), c.load.end(), int64_t{0}));
    for (const auto& load : {gpu_load(c.load, p, c.shape.gpus), gpu_load_in_order(c.load, c.shape.gpus)}) {
      EXPECT_EQ(load.size(), static_cast<size_t>(c.shape.gpus));
      EXPECT_NEAR(std::accumulate(load.begin(), load.end(), 0.0), total, 1e-9 * total);
      EXPECT_GE(max_over_mean(load), 1 - 1e-12);
    }
  });
}

/// What more copies can promise when items are packed the heaviest first: a little worse is possible, seldom.
TEST(ExpertPlacement, RedundantExpertsHelp) {
  Rng rng(3);
  double sum = 0, sum_without = 0;
  int cases = 0, worse = 0;
  for (int i = 0; i < 2000; ++i) {
    const int64_t gpus = static_cast<int64_t>(2 + rng.below(15)), E = gpus * static_cast<int64_t>(1 + rng.below(8));
    const Loads load = random_load(rng, E);
    double busiest_replica = static_cast<double>(*std::max_element(load.begin(), load.end()));
    double without = 0;
    for (int64_t redundant = 0; redundant <= 4 * gpus; redundant += gpus) {
      const ExpertPlacement p = place_experts(load, {.replicas = E + redundant, .gpus = gpus});
      const std::vector<double> gpu = gpu_load(load, p, gpus);
      double busiest = 0;
      for (size_t e = 0; e < load.size(); ++e) busiest = std::max(busiest, static_cast<double>(load[e]) / p.counts[e]);
      EXPECT_LE(busiest, busiest_replica);
      busiest_replica = busiest;
      const double mean = std::accumulate(gpu.begin(), gpu.end(), 0.0) / static_cast<double>(gpus);
      EXPECT_LE(*std::max_element(gpu.begin(), gpu.end()), mean + busiest + 1e-9);
      const double ratio = max_over_mean(gpu);
      if (redundant == 0) {
        without = ratio;
        continue;
      }
      ++cases;
      sum += ratio, sum_without += without;
      worse += ratio > without + 1e-9;
      EXPECT_LE(ratio, 1.2 * without);
    }
  }
  EXPECT_LT(sum - cases, 0.05 * (sum_without - cases));
  EXPECT_LT(worse, 0.05 * cases);
}

TEST(ExpertPlacement, SpreadsAnExpertThatIsAllTheLoad) {
  const Loads load{0, 100, 0, 0};
  const ExpertPlacement p = place_experts(load, {.replicas = 8, .gpus = 4});
  EXPECT_EQ(p.counts, (Ints{1, 5, 1, 1}));
  EXPECT_EQ(max_over_mean(gpu_load_in_order(load, 4)), 4);
  EXPECT_DOUBLE_EQ(max_over_mean(gpu_load(load, p, 4)), 1.6);  // two of the five copies share a GPU
}

TEST(ExpertPlacement, FirstOfEqualsComesFirst) {
  const Loads load{1, 1, 1, 1};
  EXPECT_EQ(place_experts(load, {.replicas = 6, .gpus = 2}).physical_to_logical, (Ints{2, 0, 0, 3, 1, 1}));
  EXPECT_EQ(place_experts(load, {.replicas = 4, .gpus = 2}).physical_to_logical, (Ints{0, 2, 1, 3}));
  const ExpertPlacement many = place_experts(Loads(64, 5), {.replicas = 64, .gpus = 4});
  for (int32_t i = 0; i < 64; ++i) EXPECT_EQ(many.physical_to_logical[static_cast<size_t>(i)], i % 16 * 4 + i / 16);
  for_random_cases([](const Case& c, const ExpertPlacement& p) {
    EXPECT_EQ(place_experts(c.load, c.shape).physical_to_logical, p.physical_to_logical);
  });
}

TEST(ExpertPlacement, OnePerGpuStaysInOrder) {
  EXPECT_EQ(place_experts(Loads{1, 9, 2, 3}, {.replicas = 4, .gpus = 4}).physical_to_logical, (Ints{0, 1, 2, 3}));
}

TEST(ExpertPlacement, InOrderWithMoreOrFewerGpusThanExperts) {
  EXPECT_EQ(gpu_load_in_order(Loads{1, 2, 3, 4}, 2), (std::vector<double>{3, 7}));
  EXPECT_EQ(gpu_load_in_order(Loads{1, 2, 3}, 2), (std::vector<double>{3, 3}));
  EXPECT_EQ(gpu_load_in_order(Loads{1, 2}, 4), (std::vector<double>{1, 0, 2, 0}));
}

TEST(ExpertPlacement, PacksTheHeaviestFirst) {
  const Packing p = balanced_packing(std::vector<double>{5, 1, 9, 3, 3, 2}, 2);
  EXPECT_EQ(p.pack, (Ints{1, 0, 0, 1, 1, 0}));  // 9 and 5, then both 3 to the lighter 5, which is full then
  EXPECT_EQ(p.slot, (Ints{0, 2, 0, 1, 2, 1}));
}

TEST(ExpertPlacement, ReplicatesTheBusiestPerCopy) {
  const Replicas r = replicate(std::vector<double>{4, 12, 6}, 7);
  EXPECT_EQ(r.expert, (Ints{0, 1, 2, 1, 1, 2, 0}));  // of 12; of 6 and 6 the first; of 6; of 4 and 4 the first
  EXPECT_EQ(r.rank, (Ints{0, 0, 0, 1, 2, 1, 1}));
  EXPECT_EQ(r.counts, (Ints{2, 3, 2}));
}

TEST(ExpertPlacement, RefusesOtherShapes) {
  const Loads load{1, 2, 3, 4};
  const std::pair<std::pair<Loads, PlacementShape>, const char*> cases[] = {
      {{{}, {.replicas = 4}}, "experts: expected at least 1, found none"},
      {{load, {.replicas = 4, .groups = 3}}, "groups: expected a divisor of the 4 experts, found 3"},
      {{load, {.replicas = 4, .groups = 0}}, "groups: expected a divisor of the 4 experts, found 0"},
      {{load, {.replicas = 4, .nodes = 0}}, "nodes: expected at least 1, found 0"},
      {{load, {.replicas = 4, .gpus = 0}}, "GPUs: expected a multiple of the 1 nodes, found 0"},
      {{load, {.replicas = 4, .nodes = 3, .gpus = 4}}, "GPUs: expected a multiple of the 3 nodes, found 4"},
      {{load, {.replicas = 2, .gpus = 2}}, "expected a multiple of the 2 GPUs from 4 to 65536, found 2"},
      {{load, {.replicas = 5, .gpus = 2}}, "expected a multiple of the 2 GPUs from 4 to 65536, found 5"},
      {{load, {.replicas = 65538, .gpus = 2}}, "expected a multiple of the 2 GPUs from 4 to 65536, found 65538"},
      {{{1, -2}, {.replicas = 2}}, "load: expected no negative number"},
      {{{0, 0}, {.replicas = 2}}, "load: expected tokens, found none"},
  };
  for (const auto& [c, text] : cases) {
    const std::string error = error_of([&, &a = c] { place_experts(a.first, a.second); });
    EXPECT_NE(error.find(text), std::string::npos) << text << "\n  gives: " << error;
  }
}

}  // namespace
}  // namespace sluice
