#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fixture.h"

namespace sluice::test {
namespace {

std::vector<float> distribution(std::vector<float> logits, const SamplingRule& rule, int64_t limit = 0) {
  const Tensor t(logits.data(), {1, static_cast<int64_t>(logits.size())});
  sampling_distribution(stream(1), t, t, limit ? limit : t.cols(), rule);
  return logits;
}

/// Logits of given probabilities.
std::vector<float> logs(const std::vector<float>& p) {
  std::vector<float> out;
  for (const float v : p) out.push_back(std::log(v));
  return out;
}

void expect_near(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-6) << i;
}

TEST(SamplingDistribution, Temperature) {
  expect_near(distribution(logs({.1f, .2f, .7f}), {}), {.1f, .2f, .7f});
  const float total = .01f + .04f + .49f;
  expect_near(distribution(logs({.1f, .2f, .7f}), {.5f, 0, 1}), {.01f / total, .04f / total, .49f / total});
  expect_near(distribution({1, 3, 3, 2}, {0, 0, 1}), {0, 1, 0, 0});  // the first of the largest
  expect_near(distribution({1, 3, 2}, {1e-20f, 0, 1}), {0, 1, 0});
  expect_near(distribution({1000, 999, -1000}, {}), {1 / (1 + std::exp(-1.f)), 1 - 1 / (1 + std::exp(-1.f)), 0});
}

TEST(SamplingDistribution, TopK) {
  expect_near(distribution(logs({.1f, .4f, .2f, .3f}), {1, 2, 1}), {0, .4f / .7f, 0, .3f / .7f});
  expect_near(distribution(logs({.25f, .25f, .25f, .25f}), {1, 3, 1}), {1 / 3.f, 1 / 3.f, 1 / 3.f, 0});
  expect_near(distribution(logs({.1f, .9f}), {1, 9, 1}), {.1f, .9f});
}

TEST(SamplingDistribution, TopP) {
  expect_near(distribution(logs({.1f, .4f, .2f, .3f}), {1, 0, .65f}), {0, .4f / .7f, 0, .3f / .7f});
  expect_near(distribution(logs({.1f, .4f, .2f, .3f}), {1, 0, .75f}), {0, .4f / .9f, .2f / .9f, .3f / .9f});
  expect_near(distribution(logs({.1f, .4f, .2f, .3f}), {1, 0, 1e-6f}), {0, 1, 0, 0});
  // After top_k: the share is one of what top_k has left.
  expect_near(distribution(logs({.1f, .4f, .2f, .3f}), {1, 2, .55f}), {0, 1, 0, 0});
}

TEST(SamplingDistribution, LimitMasksPaddedIds) {
  expect_near(distribution(logs({.1f, .1f, .8f}), {}, 2), {.5f, .5f, 0});
  expect_near(distribution({1, 2, 3}, {0, 0, 1}, 2), {0, 1, 0});
  std::vector<float> logits = {1, 2, 3, 3};
  int32_t id = -1;
  argmax(stream(1), Tensor(&id, DType::i32, {1}), Tensor(logits.data(), {1, 4}), 4);
  EXPECT_EQ(id, 2);
  argmax(stream(1), Tensor(&id, DType::i32, {1}), Tensor(logits.data(), {1, 4}), 2);
  EXPECT_EQ(id, 1);
}

TEST(SamplingDistribution, LargeVocabulary) {  // several vectors and a tail
  std::vector<float> logits(1003);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>((i * 7919) % 1003) / 100;
  const std::vector<float> p = distribution(logits, {1, 50, .9f});
  double total = 0;
  int64_t kept = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    total += p[i];
    kept += p[i] > 0;
    if (p[i] > 0) {
      EXPECT_GE(logits[i], 9.52f);
    }
  }
  EXPECT_NEAR(total, 1, 1e-6);
  EXPECT_GT(kept, 30);
  EXPECT_LT(kept, 50);
}

/// Pearson's statistic against its mean n and deviation sqrt(2 n) for n degrees of freedom.
double chi_square_deviations(const std::vector<double>& counts, const std::vector<double>& expected) {
  double statistic = 0, freedom = -1;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (expected[i] == 0) {
      EXPECT_EQ(counts[i], 0) << i;
      continue;
    }
    statistic += (counts[i] - expected[i]) * (counts[i] - expected[i]) / expected[i];
    freedom += 1;
  }
  return (statistic - freedom) / std::sqrt(2 * freedom);
}

constexpr int64_t kDraws = 200000;

TEST(TokenSampler, ChoosesByDistribution) {
  std::vector<float> logits = {0, 1, 2, -1, .5f};
  const SamplingRule rule{.8f, 4, 1};
  const std::vector<float> p = distribution(logits, rule);
  TokenSampler sampler(stream(1), rule, 7, 5);
  std::vector<double> counts(5), expected(5);
  for (int64_t i = 0; i < kDraws; ++i) ++counts[static_cast<size_t>(sampler.choose(Tensor(logits.data(), {1, 5}), i))];
  for (size_t i = 0; i < 5; ++i) expected[i] = p[i] * kDraws;
  EXPECT_LT(chi_square_deviations(counts, expected), 4);
}

TEST(TokenSampler, DependsOnSeedAndPositionOnly) {
  std::vector<float> logits(50, 0.f);
  const Tensor t(logits.data(), {1, 50});
  TokenSampler a(stream(1), {}, 3, 50), b(stream(1), {}, 3, 50), c(stream(1), {}, 4, 50);
  std::vector<int32_t> from_a, from_b, from_c;
  for (int64_t i = 0; i < 20; ++i) {
    from_a.push_back(a.choose(t, i));
    from_b.insert(from_b.begin(), b.choose(t, 19 - i));
    from_c.push_back(c.choose(t, i));
  }
  EXPECT_EQ(from_a, from_b);
  EXPECT_NE(from_a, from_c);
}

TEST(TokenSampler, VerifiedProposalsFollowTheModel) {
  std::vector<float> p_logits = {0, 1, 2, -1, .5f}, q_logits = {1, 1, 0, 2, -1};
  for (const SamplingRule& rule : {SamplingRule{1, 0, 1}, SamplingRule{.7f, 3, 1}, SamplingRule{1, 0, .8f}}) {
    const std::vector<float> p = distribution(p_logits, rule), q = distribution(q_logits, rule);
    TokenSampler sampler(stream(1), rule, 11, 5);
    std::vector<double> counts(5), expected(5);
    double accepted = 0, overlap = 0;
    for (int64_t i = 0; i < kDraws; ++i) {
      const int32_t d = sampler.propose(Tensor(q_logits.data(), {1, 5}), i);
      const int32_t id = sampler.verify(Tensor(p_logits.data(), {1, 5}), i, d);
      ++counts[static_cast<size_t>(id)];
      accepted += id == d;
    }
    for (size_t i = 0; i < 5; ++i) {
      expected[i] = p[i] * kDraws;
      overlap += std::min(p[i], q[i]);
    }
    EXPECT_LT(chi_square_deviations(counts, expected), 4);
    EXPECT_NEAR(accepted / kDraws, overlap, 0.01);  // the best any lossless scheme can do
  }
}

TEST(TokenSampler, GreedyVerification) {
  std::vector<float> logits = {0, 1, 2}, same = {0, 0, 5}, other = {5, 0, 0};
  TokenSampler sampler(stream(1), {0, 0, 1}, 1, 3);
  EXPECT_EQ(sampler.choose(Tensor(logits.data(), {1, 3}), 0), 2);
  EXPECT_EQ(sampler.propose(Tensor(same.data(), {1, 3}), 0), 2);
  EXPECT_EQ(sampler.verify(Tensor(logits.data(), {1, 3}), 0, 2), 2);
  EXPECT_EQ(sampler.propose(Tensor(other.data(), {1, 3}), 0), 0);
  EXPECT_EQ(sampler.verify(Tensor(logits.data(), {1, 3}), 0, 0), 2);
}

}  // namespace
}  // namespace sluice::test
