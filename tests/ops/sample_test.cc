#include "ops/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "op_test.h"
#include "ops/ref/sample.h"

namespace sluice::test {
namespace {

template <class Vector>
Tensor vector_of(Vector& v) {
  return Tensor(v.data(), DType::i32, {static_cast<int64_t>(v.size())});
}

std::vector<float> distribution(std::vector<float> logits, const SamplingRule& rule, int64_t limit = 0,
                                std::vector<int32_t> seen = {}) {
  const Tensor t(logits.data(), {1, static_cast<int64_t>(logits.size())});
  SamplingState state;
  state.seen = vector_of(seen);
  sampling_distribution(stream(1), t, t, limit ? limit : t.cols(), rule, state);
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

SamplingRule with_min_p(float min_p, SamplingRule rule = {}) {
  rule.min_p = min_p;
  return rule;
}

SamplingRule with_penalty(float penalty, SamplingRule rule = {}) {
  rule.repetition_penalty = penalty;
  return rule;
}

SamplingRule cuts(float temperature, int64_t top_k, float top_p) {
  SamplingRule rule;
  rule.temperature = temperature;
  rule.top_k = top_k;
  rule.top_p = top_p;
  return rule;
}

TEST(SamplingDistribution, Temperature) {
  expect_near(distribution(logs({.1f, .2f, .7f}), {}), {.1f, .2f, .7f});
  const float total = .01f + .04f + .49f;
  expect_near(distribution(logs({.1f, .2f, .7f}), cuts(.5f, 0, 1)), {.01f / total, .04f / total, .49f / total});
  expect_near(distribution({1, 3, 3, 2}, cuts(0, 0, 1)), {0, 1, 0, 0});  // the first of the largest
  expect_near(distribution({1, 3, 2}, cuts(1e-20f, 0, 1)), {0, 1, 0});
  expect_near(distribution({1000, 999, -1000}, {}), {1 / (1 + std::exp(-1.f)), 1 - 1 / (1 + std::exp(-1.f)), 0});
}

TEST(SamplingDistribution, TopK) {
  expect_near(distribution(logs({.1f, .4f, .2f, .3f}), cuts(1, 2, 1)), {0, .4f / .7f, 0, .3f / .7f});
  expect_near(distribution(logs({.25f, .25f, .25f, .25f}), cuts(1, 3, 1)), {1 / 3.f, 1 / 3.f, 1 / 3.f, 0});
  expect_near(distribution(logs({.1f, .9f}), cuts(1, 9, 1)), {.1f, .9f});
}

TEST(SamplingDistribution, TopP) {
  expect_near(distribution(logs({.1f, .4f, .2f, .3f}), cuts(1, 0, .65f)), {0, .4f / .7f, 0, .3f / .7f});
  expect_near(distribution(logs({.1f, .4f, .2f, .3f}), cuts(1, 0, .75f)), {0, .4f / .9f, .2f / .9f, .3f / .9f});
  expect_near(distribution(logs({.1f, .4f, .2f, .3f}), cuts(1, 0, 1e-6f)), {0, 1, 0, 0});
  expect_near(distribution({0, 0, 0, 0}, cuts(1, 0, .5f)), {.5f, .5f, 0, 0});  // ties keep the lower ids
  // After top_k: the share is one of what top_k has left.
  expect_near(distribution(logs({.1f, .4f, .2f, .3f}), cuts(1, 2, .55f)), {0, 1, 0, 0});
}

TEST(SamplingDistribution, MinP) {
  const std::vector<float> p = logs({.1f, .4f, .2f, .3f});
  expect_near(distribution(p, with_min_p(.2f)), {.1f, .4f, .2f, .3f});
  expect_near(distribution(p, with_min_p(.3f)), {0, .4f / .9f, .2f / .9f, .3f / .9f});
  expect_near(distribution(p, with_min_p(.7f)), {0, .4f / .7f, 0, .3f / .7f});
  expect_near(distribution({1, 3, 2, 3}, with_min_p(1)), {0, .5f, 0, .5f});  // the largest stay, all of them
  // After temperature: .1 and .4 are 1 : 2 at temperature 2.
  expect_near(distribution(logs({.1f, .4f}), with_min_p(.45f, cuts(2, 0, 1))), {1 / 3.f, 2 / 3.f});
  // Cuts what top_k has left, which is as large in comparison to the most probable as before.
  expect_near(distribution(p, with_min_p(.6f, cuts(1, 3, 1))), {0, .4f / .7f, 0, .3f / .7f});
}

TEST(SamplingDistribution, RepetitionPenalty) {
  // Positive logits are divided, negative ones multiplied; 0 stays.
  const std::vector<float> logits = {2, -1, 0, 1};
  expect_near(distribution(logits, with_penalty(2), 0, {0, 1, 2}), distribution({1, -2, 0, 1}, {}));
  expect_near(distribution(logits, with_penalty(.5f), 0, {0, 1, 2}), distribution({4, -.5f, 0, 1}, {}));
  expect_near(distribution(logits, with_penalty(2)), distribution(logits, {}));
  expect_near(distribution(logits, {}, 0, {0, 1}), distribution(logits, {}));
  // Before temperature and the choice of the largest; ids beyond the limit may have been seen.
  expect_near(distribution(logits, with_penalty(3, cuts(0, 0, 1)), 0, {0}), {0, 0, 0, 1});
  expect_near(distribution(logits, with_penalty(2, cuts(.5f, 0, 1)), 3, {0, 3}),
              distribution({1, -1, 0, -1e9f}, cuts(.5f, 0, 1)));
}

TEST(SamplingDistribution, LimitMasksPaddedIds) {
  expect_near(distribution(logs({.1f, .1f, .8f}), {}, 2), {.5f, .5f, 0});
  expect_near(distribution({1, 2, 3}, cuts(0, 0, 1), 2), {0, 1, 0});
  expect_near(distribution(logs({.1f, .2f, .7f}), with_min_p(.4f), 2), {1 / 3.f, 2 / 3.f, 0});
}

/// What a state holds, as vectors; one for all rows.
struct State {
  SharedVector<int32_t> seen, counts, bias_ids;
  SharedVector<float> biases;
  SharedVector<int64_t> allowed;

  SamplingState view() {
    SamplingState s;
    s.seen = vector_of(seen);
    if (!counts.empty()) s.counts = vector_of(counts);
    s.bias_ids = vector_of(bias_ids);
    s.biases = Tensor(biases.data(), DType::f32, {static_cast<int64_t>(biases.size())});
    if (!allowed.empty()) s.allowed = Tensor(allowed.data(), DType::i64, {static_cast<int64_t>(allowed.size())});
    return s;
  }
  ref::SamplingState reference() const {
    ref::SamplingState s{{seen.begin(), seen.end()}, {counts.begin(), counts.end()}, {}, {}};
    for (size_t i = 0; i < bias_ids.size(); ++i) s.biases.emplace_back(bias_ids[i], biases[i]);
    for (size_t id = 0; id < 64 * allowed.size(); ++id)
      if (!(static_cast<uint64_t>(allowed[id / 64]) >> (id % 64) & 1)) s.forbidden.push_back(id);
    return s;
  }
};

/// Compares with the reference, on several numbers of threads, and in place.
void compare(const Host& logits, int64_t limit, const SamplingRule& rule, State state) {
  Host p(DType::f32, logits.rows(), logits.cols()), in_place = logits;
  run({&p}, [&](Stream& s) { sampling_distribution(s, p, logits, limit, rule, state.view()); });
  run({&in_place}, [&](Stream& s) { sampling_distribution(s, in_place, in_place, limit, rule, state.view()); });
  EXPECT_TRUE(p.bytes() == in_place.bytes());
  const Mat<double> got = p.get(), x = logits.get();
  for (int64_t t = 0; t < x.rows; ++t) {
    const auto row = x.data.begin() + t * x.cols;
    const std::vector<double> expected =
        ref::sampling_distribution({row, row + x.cols}, limit, rule, state.reference());
    for (int64_t i = 0; i < x.cols; ++i) {
      const double e = expected[static_cast<size_t>(i)];
      ASSERT_NEAR(got(t, i), e, 1e-5 * e + 1e-30) << "row " << t << " id " << i << " of " << x.cols;
    }
  }
}

void compare(const Host& logits, int64_t limit, const SamplingRule& rule, const std::vector<int32_t>& seen) {
  compare(logits, limit, rule, State{{seen.begin(), seen.end()}, {}, {}, {}, {}});
}

const std::vector<SamplingRule>& rules() {
  static const std::vector<SamplingRule> all = [] {
    std::vector<SamplingRule> r;
    for (const float temperature : {1.f, .7f, 1.9f})
      for (const int64_t top_k : {0, 1, 40})
        for (const float top_p : {1.f, .9f, .3f})
          for (const float min_p : {0.f, .08f})
            for (const float penalty : {1.f, 1.2f, .8f})
              r.push_back(with_penalty(penalty, with_min_p(min_p, cuts(temperature, top_k, top_p))));
    return r;
  }();
  return all;
}

TEST_P(FixedOpTest, SamplingDistributionIsTheReference) {
  for (const auto& [V, limit] : {std::pair<int64_t, int64_t>{1, 1}, {7, 6}, {64, 64}, {1003, 990}}) {
    const Host logits = random_as(DType::f32, 3, V, Rows::packed, 3);
    std::vector<int32_t> seen;
    for (int32_t id = static_cast<int32_t>(V) - 1; id >= 0; id -= 3) seen.push_back(id);
    for (const SamplingRule& rule : rules()) compare(logits, limit, rule, seen);
  }
}

TEST_P(FixedOpTest, SamplingDistributionOfEveryStateIsTheReference) {
  for (const auto& [V, limit] : {std::pair<int64_t, int64_t>{7, 6}, {64, 64}, {300, 257}}) {
    const Host logits = random_as(DType::f32, 3, V, Rows::packed, 3);
    State state;
    for (int32_t id = static_cast<int32_t>(V) + 2; id >= 0; id -= 3) {  // those from V on change nothing
      state.seen.push_back(id);
      state.counts.push_back(id % 4);
      state.bias_ids.push_back(id / 2);  // some of them twice
      state.biases.push_back(static_cast<float>(id % 5) - 2);
    }
    std::erase_if(state.seen, [V = V](int32_t id) { return id >= V; });
    state.counts.resize(state.seen.size());
    for (int64_t word = 0; word < (limit + 63) / 64; ++word)
      state.allowed.push_back(word % 3 == 1 ? -1 : static_cast<int64_t>(rng_.next() | 2));
    for (const SamplingRule& base : {SamplingRule{}, cuts(.7f, 40, .9f), with_penalty(1.3f), with_min_p(.1f)})
      for (const float frequency : {0.f, .5f, -1.f})
        for (const float presence : {0.f, 1.5f, -.25f}) {
          SamplingRule rule = base;
          rule.frequency_penalty = frequency;
          rule.presence_penalty = presence;
          compare(logits, limit, rule, state);
          State part = state;
          part.allowed.clear();
          compare(logits, limit, rule, part);
          part.seen.clear(), part.counts.clear();
          compare(logits, limit, rule, part);
        }
  }
}

TEST(SamplingDistribution, IdsFromTheVocabularyOnChangeNothing) {
  std::vector<float> logits = {1, 2, 3};
  State state{{1, 7}, {2, 1}, {0, 9}, {1.f, 50.f}, {}};
  SamplingRule rule = with_penalty(2);
  rule.frequency_penalty = .25f;
  rule.presence_penalty = .125f;
  const Tensor t(logits.data(), {1, 3});
  sampling_distribution(stream(1), t, t, 3, rule, state.view());
  expect_near(logits, distribution({2, 1 - .5f - .125f, 3}, {}));
}

TEST(SamplingDistribution, NothingIsAllowed) {
  for (const float temperature : {0.f, 1.f}) {
    std::vector<float> logits = {1, 2, 3};
    State state{{}, {}, {}, {}, {8}};  // an id beyond the limit
    const Tensor t(logits.data(), {1, 3});
    sampling_distribution(stream(1), t, t, 3, cuts(temperature, 2, .9f), state.view());
    expect_near(logits, {0, 0, 0});
  }
}

TEST_P(FixedOpTest, LogSumExpIsTheReference) {
  for (const int64_t V : {1, 7, 64, 5003}) {
    Host logits = random_as(DType::f32, 3, V, Rows::packed, 3);
    Host total(DType::f32, 3);
    run({&total}, [&](Stream& s) { log_sum_exp(s, total, logits); });
    const Mat<double> x = logits.get(), got = total.get();
    for (int64_t t = 0; t < 3; ++t) {
      double sum = 0;
      for (int64_t i = 0; i < V; ++i) sum += std::exp(x(t, i));
      EXPECT_NEAR(got.data[static_cast<size_t>(t)], std::log(sum), 2e-6 * std::max(1.0, std::log(sum))) << V;
    }
  }
  std::vector<float> far = {1000, 999, -1000};
  float total = 0;
  log_sum_exp(stream(1), Tensor(&total, {1}), Tensor(far.data(), {1, 3}));
  EXPECT_NEAR(total, 1000 + std::log1p(std::exp(-1.f)), 1e-4);
}

TEST_P(FixedOpTest, SamplingDistributionKeepsTheLowerOfEqualIds) {
  std::vector<double> values(2 * 300);
  for (double& v : values) v = static_cast<double>(rng_.below(5)) * .5;
  const Host logits = Host(DType::f32, 2, 300).set(values);
  for (const SamplingRule& rule :
       {cuts(1, 1, 1), cuts(1, 37, 1), cuts(1, 100, 1), cuts(.7f, 0, .41f), cuts(1, 80, .33f), with_min_p(1),
        with_min_p(.5f, cuts(1, 90, 1)), with_penalty(2, cuts(1, 50, 1))})
    compare(logits, 290, rule, {0, 3, 4, 8, 200, 295});
}

TEST_P(FixedOpTest, ArgmaxIsTheFirstOfTheLargest) {
  for (const auto& [V, limit] : {std::pair<int64_t, int64_t>{1, 1}, {4, 2}, {100, 99}, {1003, 1000}}) {
    std::vector<double> values(static_cast<size_t>(20 * V));
    for (double& v : values) v = static_cast<double>(rng_.below(static_cast<uint64_t>(V))) - 2;
    const Host logits = Host(DType::f32, 20, V).set(values);
    Host ids(DType::i32, 20);
    run({&ids}, [&, &limit = limit](Stream& s) { argmax(s, ids, logits, limit); });
    for (int64_t t = 0; t < 20; ++t) {
      const auto row = values.begin() + t * V;
      EXPECT_EQ(ids.integers()[static_cast<size_t>(t)], std::max_element(row, row + limit) - row);
    }
  }
}

TEST(SamplingDistribution, RefusesRulesOutOfRange) {
  for (const SamplingRule& rule : {cuts(-1, 0, 1), cuts(1, -1, 1), cuts(1, 0, 0), cuts(1, 0, 1.1f), with_min_p(-.1f),
                                   with_min_p(1.1f), with_penalty(0), with_penalty(-1)})
    EXPECT_THROW(distribution({1, 2}, rule), Bug);
  EXPECT_THROW(distribution({1, 2}, {}, 3), Bug);
  EXPECT_THROW(distribution({1, 2}, {}, -1), Bug);
  std::vector<float> logits(70);
  const Tensor t(logits.data(), {1, 70});
  for (State state : {State{{1, 2}, {1}, {}, {}, {}}, State{{}, {}, {1}, {}, {}}, State{{}, {}, {}, {}, {1}}})
    EXPECT_THROW(sampling_distribution(stream(1), t, t, 70, {}, state.view()), Bug);
}

Tensor one_row(std::vector<float>& x) { return Tensor(x.data(), {1, static_cast<int64_t>(x.size())}); }

std::vector<float> random_logits(int64_t V, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> x;
  while (static_cast<int64_t>(x.size()) < V) x.push_back(static_cast<float>(2 * rng.normal()));
  return x;
}

int32_t draw_one(std::vector<float> logits, int64_t limit, const SamplingRule& rule, const SamplingState& state,
                 const Rng& noise) {
  std::vector<float> work(logits.size());
  return draw(stream(1), one_row(work), one_row(logits), limit, rule, state, noise);
}

/// By the definition: the distribution, and the logarithms of all ids.
int32_t slow_draw(std::vector<float> logits, int64_t limit, const SamplingRule& rule, const SamplingState& state,
                  const Rng& noise) {
  std::vector<float> p(logits.size());
  sampling_distribution(stream(1), one_row(p), one_row(logits), limit, rule, state);
  int32_t first = 0;
  double earliest = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < p.size(); ++i) {
    const double u = noise_uniform(noise.key(), static_cast<uint32_t>(i));
    const double arrival = -std::log1p(-u) / static_cast<double>(p[i]);
    if (!(p[i] > 0) || arrival >= earliest) continue;
    earliest = arrival;
    first = static_cast<int32_t>(i);
  }
  return first;
}

TEST(Draw, IsTheFirstOfTheRaceOfTheDistribution) {
  std::vector<SamplingRule> tried = rules();
  tried.push_back({});
  tried.push_back(cuts(0, 0, 1));
  for (const int64_t V : {1, 2, 7, 8, 19, 1000}) {
    std::set<int32_t> drawn;
    for (uint64_t seed = 0; seed < 40; ++seed) {
      const std::vector<float> logits = random_logits(V, seed);
      const int64_t limit = V - static_cast<int64_t>(seed % 3 == 2 && V > 2);
      State state;
      if (seed % 2 == 1) state.allowed.assign(static_cast<size_t>(V + 63) / 64, 0x5a5a5a5a5a5a5a5b);
      for (const SamplingRule& rule : tried) {
        const int32_t id = draw_one(logits, limit, rule, state.view(), Rng(seed, 5));
        ASSERT_EQ(id, slow_draw(logits, limit, rule, state.view(), Rng(seed, 5))) << V << ' ' << seed;
        drawn.insert(id);
      }
    }
    EXPECT_GE(static_cast<int64_t>(drawn.size()), std::min<int64_t>(V - 3, 40));
  }
}

TEST(Draw, OfEqualProbabilitiesTheLowerAreLeft) {
  for (const int64_t V : {5, 16, 33, 100}) {
    const std::vector<float> zeros(static_cast<size_t>(V));
    for (uint64_t seed = 0; seed < 60; ++seed)
      for (const SamplingRule& rule : {cuts(1, 3, 1), cuts(1, 0, 2.5f / static_cast<float>(V))})
        EXPECT_LT(draw_one(zeros, V, rule, {}, Rng(seed)), 3);
  }
}

/// Whatever it is, it is an id.
TEST(Draw, OfNaN) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  for (const int64_t V : {1, 2, 19, 1000})
    for (const int64_t every : {1, 2, 7}) {
      std::vector<float> logits = random_logits(V, 1), p(logits.size());
      for (size_t i = 0; i < logits.size(); i += static_cast<size_t>(every)) logits[i] = kNaN;
      const int64_t limit = std::max<int64_t>(1, V - 1);
      for (const SamplingRule& rule : rules()) {
        const int32_t id = draw_one(logits, limit, rule, {}, Rng(1));
        EXPECT_TRUE(id >= 0 && id < limit) << id;
        sampling_distribution(stream(1), one_row(p), one_row(logits), limit, rule);
        int32_t best = -1;
        argmax(stream(1), Tensor(&best, DType::i32, {1}), one_row(logits), limit);
        EXPECT_TRUE(best >= 0 && best < limit) << best;
      }
    }
}

TEST(Draw, NothingAllowed) {
  State state;
  state.allowed.assign(2, 0);
  for (const SamplingRule& rule : rules()) EXPECT_EQ(draw_one(random_logits(70, 1), 70, rule, state.view(), Rng(1)), 0);
}

}  // namespace
}  // namespace sluice::test
