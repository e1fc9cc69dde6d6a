#include "base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace sluice {
namespace {

TEST(Rng, SplitMix64KnownValues) {
  // The first outputs of splitmix64 with seed 1234567 (its author's reference).
  const uint64_t expected[] = {6457827717110365317ull, 3203168211198807973ull, 9817491932198370423ull};
  uint64_t state = 1234567;
  for (const uint64_t e : expected) {
    EXPECT_EQ(mix64(state), e);
    state += 0x9e3779b97f4a7c15ull;
  }
}

TEST(Rng, DependsOnSeedStreamAndCounterAlone) {
  Rng a(1, 2), b(1, 2), c(1, 3), d(2, 2);
  std::vector<uint64_t> values;
  for (int i = 0; i < 100; ++i) {
    values.push_back(a.next());
    EXPECT_EQ(b.next(), values.back());
    EXPECT_NE(c.next(), values.back());
    EXPECT_NE(d.next(), values.back());
  }
  EXPECT_EQ(a.counter(), 100u);
  a.set_counter(37);
  EXPECT_EQ(a.next(), values[37]);
  EXPECT_EQ(std::set<uint64_t>(values.begin(), values.end()).size(), 100u);
}

TEST(Rng, BelowStaysInRangeAndIsUniform) {
  Rng rng(5);
  for (const uint64_t n : {uint64_t{1}, uint64_t{2}, uint64_t{3}, uint64_t{1} << 63, UINT64_MAX})
    for (int i = 0; i < 1000; ++i) ASSERT_LT(rng.below(n), n);
  std::vector<double> counts(10);
  const int draws = 100000;
  for (int i = 0; i < draws; ++i) ++counts[rng.below(10)];
  double chi2 = 0;
  for (const double c : counts) chi2 += (c - draws / 10.0) * (c - draws / 10.0) / (draws / 10.0);
  EXPECT_LT(chi2, 33.7);  // 9 degrees of freedom, p = 1e-4; the draw is fixed
}

TEST(Rng, UniformAndNormalMoments) {
  Rng rng(6);
  const int n = 200000;
  double u1 = 0, u2 = 0, n1 = 0, n2 = 0, n4 = 0;
  for (int i = 0; i < n; ++i) {
    const double u = rng.uniform();
    ASSERT_TRUE(u >= 0 && u < 1);
    u1 += u, u2 += u * u;
    const double z = rng.normal();
    ASSERT_TRUE(std::isfinite(z));
    n1 += z, n2 += z * z, n4 += z * z * z * z;
  }
  EXPECT_NEAR(u1 / n, 0.5, 0.003);
  EXPECT_NEAR(u2 / n, 1.0 / 3, 0.003);
  EXPECT_NEAR(n1 / n, 0, 0.01);
  EXPECT_NEAR(n2 / n, 1, 0.015);
  EXPECT_NEAR(n4 / n, 3, 0.1);
}

TEST(Rng, StreamsAreNotCorrelated) {
  Rng a(1, 0), b(1, 1);
  double sum = 0;
  const int n = 100000;
  for (int i = 0; i < n; ++i) sum += (a.uniform() - 0.5) * (b.uniform() - 0.5);
  EXPECT_NEAR(sum / n * 12, 0, 0.015);
}

}  // namespace
}  // namespace sluice
