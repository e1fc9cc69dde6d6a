#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/rng.h"
#include "fixture.h"

namespace sluice::test {
namespace {

constexpr int64_t kDraws = 200000;

Tensor row(std::vector<float>& logits) { return Tensor(logits.data(), {1, static_cast<int64_t>(logits.size())}); }

std::vector<double> distribution(std::vector<float> logits, const SamplingRule& rule, std::vector<int32_t> seen = {}) {
  SamplingState state;
  state.seen = Tensor(seen.data(), DType::i32, {static_cast<int64_t>(seen.size())});
  sampling_distribution(stream(1), row(logits), row(logits), static_cast<int64_t>(logits.size()), rule, state);
  return {logits.begin(), logits.end()};
}

SamplingRule rule_of(float temperature, int64_t top_k = 0, float top_p = 1, float repetition_penalty = 1) {
  SamplingRule rule;
  rule.temperature = temperature;
  rule.top_k = top_k;
  rule.top_p = top_p;
  rule.repetition_penalty = repetition_penalty;
  return rule;
}

/// Pearson's statistic of counts in `draws`, in deviations sqrt(2 n) from its mean n for n degrees of freedom.
double chi_square_deviations(const std::vector<double>& counts, const std::vector<double>& p, int64_t draws) {
  double statistic = 0, freedom = -1;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (p[i] == 0) {
      EXPECT_EQ(counts[i], 0) << i;
      continue;
    }
    const double expected = p[i] * static_cast<double>(draws);
    statistic += (counts[i] - expected) * (counts[i] - expected) / expected;
    freedom += 1;
  }
  return (statistic - freedom) / std::sqrt(2 * freedom);
}

TEST(TokenSampler, ChoosesByDistributionAtPositions) {
  std::vector<float> logits = {0, 1, 2, -1, .5f};
  const SamplingRule rule = rule_of(.8f, 4);
  TokenSampler sampler(stream(1), rule, 7, 5);
  std::vector<double> counts(5);
  for (int64_t i = 0; i < kDraws; ++i) ++counts[static_cast<size_t>(sampler.choose(row(logits), i))];
  EXPECT_LT(chi_square_deviations(counts, distribution(logits, rule), kDraws), 4);
}

TEST(TokenSampler, ChoosesByDistributionForSeeds) {
  std::vector<float> logits = {0, 1, 2, -1, .5f};
  std::vector<double> counts(5);
  for (int64_t i = 0; i < kDraws; ++i)
    ++counts[static_cast<size_t>(TokenSampler(stream(1), {}, static_cast<uint64_t>(i), 5).choose(row(logits), 1000))];
  EXPECT_LT(chi_square_deviations(counts, distribution(logits, {}), kDraws), 4);
}

TEST(TokenSampler, NeighbouringPositionsAreIndependent) {
  std::vector<float> logits = {0, 1, -.5f};
  TokenSampler sampler(stream(1), {}, 3, 3);
  const std::vector<double> p = distribution(logits, {});
  std::vector<double> counts(9), expected;
  for (const double a : p)
    for (const double b : p) expected.push_back(a * b);
  for (int64_t i = 0; i < kDraws; ++i)
    ++counts[static_cast<size_t>(3 * sampler.choose(row(logits), 2 * i) + sampler.choose(row(logits), 2 * i + 1))];
  EXPECT_LT(chi_square_deviations(counts, expected, kDraws), 4);
}

TEST(TokenSampler, ChoosesByDistributionInALargeVocabulary) {
  std::vector<float> logits(1000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 7) / 3;
  TokenSampler sampler(stream(1), {}, 5, 1000);
  std::vector<double> counts(1000);
  for (int64_t i = 0; i < 50000; ++i) ++counts[static_cast<size_t>(sampler.choose(row(logits), i))];
  EXPECT_LT(chi_square_deviations(counts, distribution(logits, {}), 50000), 4);
}

TEST(TokenSampler, DependsOnSeedAndPositionOnly) {
  std::vector<float> logits(50, 0.f);
  TokenSampler a(stream(1), {}, 3, 50), b(stream(1), {}, 3, 50), c(stream(1), {}, 4, 50);
  std::vector<int32_t> from_a, from_b, from_c;
  for (int64_t i = 0; i < 20; ++i) {
    from_a.push_back(a.choose(row(logits), i));
    from_b.insert(from_b.begin(), b.choose(row(logits), 19 - i));
    from_c.push_back(c.choose(row(logits), i));
  }
  EXPECT_EQ(from_a, from_b);
  EXPECT_NE(from_a, from_c);
}

TEST(TokenSampler, ALikelierTokenIsChosenInsteadOfOthersOnly) {
  // What the race promises beyond the distribution: where the choice changes, it changes to the id that gained.
  TokenSampler sampler(stream(1), {}, 3, 20);
  int64_t changed = 0;
  for (int64_t i = 0; i < 2000; ++i) {
    std::vector<float> logits(20, 0.f);
    const int32_t before = sampler.choose(row(logits), i);
    logits[static_cast<size_t>(i % 20)] = 2;
    const int32_t after = sampler.choose(row(logits), i);
    changed += after != before;
    EXPECT_TRUE(after == before || after == i % 20) << i;
  }
  EXPECT_GT(changed, 200);
}

TEST(TokenSampler, NeverChoosesIdsFromTheLimitOn) {
  std::vector<float> logits = {0, 0, 9, 9};
  for (const float temperature : {0.f, 1.f}) {
    TokenSampler sampler(stream(1), rule_of(temperature), 3, 2);
    for (int64_t i = 0; i < 100; ++i) EXPECT_LT(sampler.choose(row(logits), i), 2);
  }
}

TEST(TokenSampler, PenalisesWhatItSaw) {
  std::vector<float> logits = {0, 1, 2, -1, .5f};
  for (const SamplingRule& rule : {rule_of(1, 0, 1, 1.5f), rule_of(1, 3, .9f, 1.5f), rule_of(1, 0, 1, .5f)}) {
    TokenSampler sampler(stream(1), rule, 7, 5);
    std::vector<double> counts(5);
    const int32_t twice[] = {2, 3, 2}, one[] = {2};  // seen more than once is seen
    sampler.see(twice);
    sampler.see(one);
    for (int64_t i = 0; i < kDraws; ++i) ++counts[static_cast<size_t>(sampler.choose(row(logits), i))];
    EXPECT_LT(chi_square_deviations(counts, distribution(logits, rule, {2, 3}), kDraws), 4);
  }
  TokenSampler greedy(stream(1), rule_of(0, 0, 1, 3), 0, 5);
  EXPECT_EQ(greedy.choose(row(logits), 0), 2);
  const int32_t seen[] = {2};
  greedy.see(seen);
  EXPECT_EQ(greedy.choose(row(logits), 1), 1);
}

TEST(TokenSampler, PenalisesWhatItWrote) {
  std::vector<float> logits = {0, 1, 2, -1, .5f};
  SamplingRule rule = rule_of(1);
  rule.frequency_penalty = .75f;
  rule.presence_penalty = -.5f;
  const LogitBias biases[] = {{3, 1.5f}, {0, -1}, {3, .25f}};
  TokenSampler sampler(stream(1), rule, 7, 5, biases);
  const int32_t prompt[] = {0, 2, 2, 4};  // what is only in the prompt costs nothing
  sampler.see(prompt);
  for (const int32_t id : {2, 1, 2}) sampler.add(id);
  std::vector<double> counts(5);
  for (int64_t i = 0; i < kDraws; ++i) ++counts[static_cast<size_t>(sampler.choose(row(logits), i))];
  const std::vector<double> p = distribution({-1, 1 - .75f + .5f, 2 - 1.5f + .5f, -1 + 1.75f, .5f}, {});
  EXPECT_LT(chi_square_deviations(counts, p, kDraws), 4);
}

TEST(TokenSampler, ChoosesWhatIsAllowed) {
  std::vector<float> logits(100);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i) / 10;
  for (const float temperature : {0.f, 1.f}) {
    TokenSampler sampler(stream(1), rule_of(temperature, 0, .9f), 7, 90);
    const uint64_t allowed[] = {1 << 7 | 1 << 3, uint64_t{1} << (95 - 64)};  // the last one is beyond the limit
    std::set<int32_t> chosen;
    for (int64_t i = 0; i < 1000; ++i) chosen.insert(sampler.choose(row(logits), i, allowed));
    EXPECT_EQ(chosen, temperature == 0 ? std::set<int32_t>({7}) : std::set<int32_t>({3, 7}));
    const uint64_t none[] = {0, 0};
    EXPECT_EQ(sampler.choose(row(logits), 0, none), 0);
  }
}

/// The probability that exponential races of p and q have the same winner: id i wins both if its arrival, counted in
/// its own times, is before max(p_j / p_i, q_j / q_i) of every other (arXiv:2408.07978).
double same_winner(const std::vector<double>& p, const std::vector<double>& q) {
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0 || q[i] == 0) continue;
    double rate = 0;
    for (size_t j = 0; j < p.size(); ++j) rate += std::max(p[j] / p[i], q[j] / q[i]);
    sum += 1 / rate;
  }
  return sum;
}

TEST(TokenSampler, DraftsOfTheSameRaceAreAcceptedAsOftenAsPromised) {
  Rng rng(1);
  for (const SamplingRule& rule : {rule_of(1), rule_of(.7f, 3), rule_of(1, 0, .8f)})
    for (const double distance : {.1, 1., 4.}) {
      std::vector<float> p_logits(6), q_logits(6);
      for (size_t i = 0; i < 6; ++i) {
        p_logits[i] = static_cast<float>(rng.normal());
        q_logits[i] = p_logits[i] + static_cast<float>(distance * rng.normal());
      }
      const std::vector<double> p = distribution(p_logits, rule), q = distribution(q_logits, rule);
      TokenSampler sampler(stream(1), rule, 11, 6);
      double accepted = 0, d = 0;
      for (int64_t i = 0; i < kDraws; ++i)
        accepted += sampler.choose(row(q_logits), i) == sampler.choose(row(p_logits), i);
      for (size_t i = 0; i < 6; ++i) d += std::abs(p[i] - q[i]) / 2;
      const double rate = accepted / kDraws, deviation = .5 / std::sqrt(kDraws);
      EXPECT_GE(rate, (1 - d) / (1 + d) - 4 * deviation) << distance;
      EXPECT_LE(rate, 1 - d + 4 * deviation) << distance;  // no coupling of p and q does better
      EXPECT_NEAR(rate, same_winner(p, q), 4 * deviation) << distance;
    }
}

TEST(TokenSampler, GreedyDraftIsTheLargest) {
  std::vector<float> logits = {0, 1, 2}, same = {0, 0, 5}, other = {5, 0, 0};
  TokenSampler sampler(stream(1), rule_of(0), 1, 3);
  for (int64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(sampler.choose(row(logits), i), 2);
    EXPECT_EQ(sampler.choose(row(same), i), 2);
    EXPECT_EQ(sampler.choose(row(other), i), 0);
  }
}

}  // namespace
}  // namespace sluice::test
