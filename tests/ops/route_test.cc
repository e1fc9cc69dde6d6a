#include "op_test.h"
#include "ops/moe.h"
#include "ops/ref/moe.h"

namespace sluice::test {
namespace {

constexpr Scoring kSigmoid = Scoring::sigmoid, kSoftmax = Scoring::softmax;
constexpr TopkMethod kV3 = TopkMethod::noaux_tc, kLimited = TopkMethod::group_limited_greedy,
                     kGreedy = TopkMethod::greedy;

struct RouterCase {
  const char* name;
  int64_t tokens, experts;
  RouterConfig config;  // n_group, topk_group, top_k, scoring, method, norm_topk_prob, scale
};
const RouterCase kRouters[] = {
    {"V3", 33, 256, {8, 4, 8, kSigmoid, kV3, true, 2.5f}},
    {"V3, groups of two", 300, 8, {4, 2, 3, kSigmoid, kV3, true, 2.5f}},
    {"V3, odd sizes", 21, 21, {3, 2, 5, kSigmoid, kV3, true, 0.7f}},
    {"V3, not normalised", 9, 24, {4, 2, 5, kSigmoid, kV3, false, 2.5f}},
    {"V3, one choice", 5, 24, {4, 2, 1, kSigmoid, kV3, true, 2.5f}},
    {"Moonlight", 7, 64, {1, 1, 6, kSigmoid, kV3, true, 2.446f}},
    {"one group, odd", 1, 10, {1, 1, 3, kSigmoid, kV3, true, 1}},
    {"all experts", 4, 6, {3, 3, 6, kSigmoid, kV3, true, 1}},
    {"V2-Lite", 20, 64, {1, 1, 6, kSoftmax, kGreedy, false, 1}},
    {"greedy, scaled", 5, 13, {1, 1, 4, kSoftmax, kGreedy, false, 3}},
    {"greedy, normalised", 5, 13, {1, 1, 4, kSoftmax, kGreedy, true, 3}},
    {"greedy, normalised, one choice", 5, 13, {1, 1, 1, kSoftmax, kGreedy, true, 3}},
    {"greedy ignores groups", 5, 12, {4, 1, 5, kSoftmax, kGreedy, false, 3}},
    {"V2", 20, 160, {8, 3, 6, kSoftmax, kLimited, false, 16}},
    {"V2, normalised", 20, 40, {4, 2, 6, kSoftmax, kLimited, true, 16}},
};

/// Outputs of route_forward.
struct Routed {
  Host choice, weight, score;
  Routed(int64_t tokens, int64_t experts, int64_t k)
      : choice(DType::i32, tokens, k), weight(DType::f32, tokens, k), score(DType::f32, tokens, experts) {}
  void forward(const Host& logits, const Tensor& bias, const RouterConfig& config) {
    run({&choice, &weight, &score}, [&](Stream& s) { route_forward(s, choice, weight, score, logits, bias, config); });
  }
};

Routed route(const std::vector<double>& logits, const std::vector<double>& bias, const RouterConfig& config) {
  const int64_t E = static_cast<int64_t>(logits.size());
  Routed out(1, E, config.top_k);
  const Host bias_E = Host(DType::f32, static_cast<int64_t>(bias.size())).set(bias);
  out.forward(Host(DType::f32, 1, E).set(logits), bias.empty() ? Tensor() : bias_E.tensor(), config);
  return out;
}

const std::vector<double> kLogits = {2.0, 0.1, -1.0, 0.5, 1.5, 1.4, -0.3, 0.0};
const std::vector<double> kBias = {-0.30, 0, 0.05, 0, -0.10, -0.10, 0.20, 0.10};
constexpr RouterConfig kExample{4, 2, 3, kSigmoid, kV3, true, 2.5f};

TEST_P(FixedOpTest, RouteWorkedExample) {
  const Routed r = route(kLogits, kBias, kExample);
  const double s[] = {0.880797, 0.524979, 0.268941, 0.622459, 0.817574, 0.802184, 0.425557, 0.5};
  for (int64_t e = 0; e < 8; ++e) EXPECT_NEAR(r.score.get()[e], s[e], 1e-6) << e;
  EXPECT_EQ(r.choice.integers(), (std::vector<int64_t>{4, 5, 6}));
  const double w[] = {0.999325, 0.980513, 0.520161};
  for (int64_t k = 0; k < 3; ++k) EXPECT_NEAR(r.weight.get()[k], w[k], 1e-6) << k;
  EXPECT_EQ(route(kLogits, {}, kExample).choice.integers(), (std::vector<int64_t>{0, 4, 5}));
}

TEST_P(FixedOpTest, RouteWorkedExampleGradient) {
  const Routed r = route(kLogits, kBias, kExample);
  const Host dweight = Host(DType::f32, 1, 3).set(std::vector<double>{0.3, -0.2, 0.7});
  Host dlogits(DType::f32, 1, 8);
  run({&dlogits}, [&](Stream& s) { route_backward(s, dlogits, dweight, Tensor(), r.choice, r.score, kExample); });
  const double expected[] = {0, 0, 0, 0, 0.020578, -0.075087, 0.153249, 0};
  for (int64_t e = 0; e < 8; ++e) EXPECT_NEAR(dlogits.get()[e], expected[e], 1e-6) << e;
}

TEST(RefRoute, WorkedExample) {
  Mat<double> logits(1, 8), bias(1, 8), upstream(1, 3);
  logits.data = kLogits, bias.data = kBias, upstream.data = {0.3, -0.2, 0.7};
  const auto r = ref::route(logits, bias, kExample);
  EXPECT_EQ(r.choice.data, (std::vector<int64_t>{4, 5, 6}));
  EXPECT_NEAR(r.weight[0], 0.999325, 1e-6);
  const auto gradient = complex_step(
      [&]<class C>(const Mat<C>& z) { return dot(ref::route(z, bias, kExample).weight, upstream); }, logits);
  EXPECT_NEAR(gradient[4], 0.020578, 1e-6);
  EXPECT_NEAR(gradient[5], -0.075087, 1e-6);
  EXPECT_NEAR(gradient[6], 0.153249, 1e-6);
}

TEST_P(FixedOpTest, RouteForward) {
  for (const RouterCase& c : kRouters)
    for (double bias_mean : {-1.0, 0.0}) {
      const Host logits = random(c.tokens, c.experts);
      // Mostly negative: biased scores below 0, the masked ones must stay below them.
      Host bias = random_vector(DType::f32, c.experts, 0.3);
      Mat<double> b = bias.get();
      for (double& v : b.data) v += bias_mean;
      bias.set(b);
      const bool biased = c.config.method == kV3 && bias_mean != 0;
      Routed r(c.tokens, c.experts, c.config.top_k);
      r.forward(logits, biased ? bias.tensor() : Tensor(), c.config);
      const auto expected = ref::route(logits.get(), biased ? bias.get() : Mat<double>(), c.config);
      EXPECT_EQ(r.choice.integers(), expected.choice.data) << c.name << " bias " << biased;
      EXPECT_LT(diff(r.score.get(), expected.score), tol()) << c.name << " bias " << biased;
      EXPECT_LT(diff(r.weight.get(), expected.weight), tol()) << c.name << " bias " << biased;
    }
}

TEST_P(FixedOpTest, RouteBackward) {
  for (const RouterCase& c : kRouters)
    for (bool balanced : {false, true}) {
      const Host logits = random(c.tokens, c.experts), bias = random_vector(DType::f32, c.experts, 0.3);
      const Host dweight = random(c.tokens, c.config.top_k), dscore = random(c.tokens, c.experts);
      const bool biased = c.config.method == kV3;
      Routed r(c.tokens, c.experts, c.config.top_k);
      r.forward(logits, biased ? bias.tensor() : Tensor(), c.config);
      Host dlogits(DType::f32, c.tokens, c.experts);
      const Tensor extra = balanced ? dscore.tensor() : Tensor();
      run({&dlogits}, [&](Stream& s) { route_backward(s, dlogits, dweight, extra, r.choice, r.score, c.config); });
      const auto loss = [&]<class C>(const Mat<C>& z) {
        const auto routing = ref::route(z, biased ? bias.get() : Mat<double>(), c.config);
        C sum = dot(routing.weight, dweight.get());
        return balanced ? sum + dot(routing.score, dscore.get()) : sum;
      };
      // The only weight of one normalised choice is a constant.
      if (c.config.top_k == 1 && c.config.norm_topk_prob && c.config.method == kV3 && !balanced)
        EXPECT_LT(dot(dlogits.get(), dlogits.get()), 1e-12) << c.name;
      else
        EXPECT_LT(gradient_error(dlogits.get(), loss, logits.get()), 4 * tol()) << c.name << " balanced " << balanced;
    }
}

TEST_P(FixedOpTest, RouteMaskedGroupsLoseAgainstNegativeScores) {
  // Groups 1 and 2 are kept for their best two; all biased scores are below 0, so a mask of 0 would let group 0 win.
  const std::vector<double> logits(6, 0), bias = {-3, -3, -1, -2, -1.5, -1.6};
  EXPECT_EQ(route(logits, bias, {3, 2, 4, kSigmoid, kV3, true, 1}).choice.integers(),
            (std::vector<int64_t>{2, 4, 5, 3}));
  // The sum of two decides, not the best one: 3.0 + 0.1 < 2.0 + 1.9.
  EXPECT_EQ(route({0, 0, 0, 0}, {3, 0.1, 2, 1.9}, {2, 1, 2, kSigmoid, kV3, true, 1}).choice.integers(),
            (std::vector<int64_t>{2, 3}));
  // In V2 the best one decides.
  EXPECT_EQ(route({3, 0.1, 2, 1.9}, {}, {2, 1, 2, kSoftmax, kLimited, false, 1}).choice.integers(),
            (std::vector<int64_t>{0, 1}));
}

TEST_P(FixedOpTest, RouteMaskedGroupsLoseAgainstUnderflowedScores) {
  // Softmax scores of experts 3 to 5 are 0 in float32; those of the masked experts 1 and 2 are not larger than -inf.
  const std::vector<int64_t> choice =
      route({-1e4, -1e4, -1e4, 0, -1e4, -1e4}, {}, {2, 1, 3, kSoftmax, kLimited, false, 1}).choice.integers();
  EXPECT_EQ(choice, (std::vector<int64_t>{3, 4, 5}));
}

TEST_P(FixedOpTest, RouteTiesGoToTheLowestIndex) {
  const std::vector<double> equal(40, 0.25);
  for (const RouterConfig& c : {RouterConfig{8, 3, 7, kSigmoid, kV3, true, 1},
                                {1, 1, 7, kSigmoid, kV3, true, 1},
                                {8, 3, 7, kSoftmax, kLimited, true, 1},
                                {1, 1, 7, kSoftmax, kGreedy, true, 1}}) {
    const Routed r = route(equal, {}, c);
    EXPECT_EQ(r.choice.integers(), (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6}));
    for (double w : r.weight.get().data) EXPECT_NEAR(w, 1.0 / 7, 1e-6);
  }
  EXPECT_EQ(route({1, 2, 1, 2, 2, 0, 2}, {}, {1, 1, 5, kSigmoid, kV3, true, 1}).choice.integers(),
            (std::vector<int64_t>{1, 3, 4, 6, 0}));
  // Groups {0, 1}, {2, 3}, {4, 5} tie for the second place.
  EXPECT_EQ(route({1, 0, 0, 1, 1, 0, 2, 2}, {}, {4, 2, 3, kSigmoid, kV3, true, 1}).choice.integers(),
            (std::vector<int64_t>{6, 7, 0}));
}

TEST_P(FixedOpTest, RouteAdds1e20ToTheSumOfWeights) {
  const RouterConfig one{1, 1, 1, kSigmoid, kV3, true, 1};
  const std::vector<double> logits = {std::log(1e-20), -80};
  const double s = std::exp(static_cast<double>(static_cast<float>(logits[0])));
  EXPECT_NEAR(route(logits, {}, one).weight.get()[0], s / (s + 1e-20), 1e-5);
}

TEST_P(FixedOpTest, RouteOfExtremeLogits) {
  const std::vector<double> logits = {1e4, -1e4, 200, -200, 100, -100, 89, -89, 0, 1, 2, 3};
  Mat<double> m(1, 12), ones(1, 12);
  m.data = logits;
  for (const RouterConfig& c :
       {RouterConfig{1, 1, 12, kSigmoid, kV3, true, 1}, {1, 1, 12, kSoftmax, kGreedy, false, 1}}) {
    const Routed r = route(logits, {}, c);
    const auto expected = ref::route(m, {}, c);
    for (int64_t e = 0; e < 12; ++e)
      EXPECT_NEAR(r.score.get()[e], expected.score[e], 1e-6) << logits[static_cast<size_t>(e)];
    Host dlogits(DType::f32, 1, 12);
    const Host dweight = Host(DType::f32, 1, 12).fill(1), dscore = random(1, 12);
    run({&dlogits}, [&](Stream& s) { route_backward(s, dlogits, dweight, dscore, r.choice, r.score, c); });
    for (double v : dlogits.get().data) EXPECT_TRUE(std::isfinite(v));
  }
}

TEST_P(FixedOpTest, RouteOfNaNChoosesExistingDifferentExperts) {
  const double nan = std::nan("");
  for (const RouterConfig& c : {RouterConfig{4, 2, 3, kSigmoid, kV3, true, 1},
                                {4, 2, 3, kSoftmax, kLimited, true, 1},
                                {1, 1, 5, kSoftmax, kGreedy, true, 1}})
    for (const auto& logits : {std::vector<double>(8, nan), {nan, 1, 2, 3, 4, 5, 6, 7}, {0, 1, 2, 3, 4, 5, nan, nan}}) {
      std::vector<int64_t> choice = route(logits, {}, c).choice.integers();
      std::sort(choice.begin(), choice.end());
      EXPECT_TRUE(std::adjacent_find(choice.begin(), choice.end()) == choice.end()) << "an expert twice";
      EXPECT_GE(choice.front(), 0);
      EXPECT_LT(choice.back(), 8);
    }
}

TEST_P(FixedOpTest, BalanceLoss) {
  struct Shape {
    int64_t batch, tokens, experts, k;
  };
  for (const Shape& shape : {Shape{1, 1, 4, 1}, {3, 7, 10, 3}, {2, 65, 64, 6}, {5, 2, 256, 8}})
    for (bool given : {false, true})
      for (Scoring scoring : {kSigmoid, kSoftmax}) {
        const int64_t B = shape.batch, S = shape.tokens, E = shape.experts, K = shape.k;
        const Host logits = random(B * S, E);
        Routed r(B * S, E, K);
        const Host bias = random_vector(DType::f32, E);
        r.forward(logits, given ? bias.tensor() : Tensor(), {1, 1, K, scoring, kV3, true, 1});
        Host loss(DType::f32, B), f(DType::f32, B, E), dscore(DType::f32, B * S, E);
        const Tensor choice = given ? r.choice.tensor() : Tensor();
        const Mat<int64_t> choice_ref = given ? r.choice.integer_matrix() : Mat<int64_t>();
        run({&loss, &f}, [&](Stream& s) { balance_forward(s, loss, f, r.score, choice, K); });
        const auto expected = ref::balance(r.score.get(), choice_ref, B, K);
        EXPECT_LT(diff(f.get(), expected.f), tol()) << B << "x" << S << "x" << E << " given " << given;
        EXPECT_LT(diff(loss.get(), expected.loss), tol()) << B << "x" << S << "x" << E << " given " << given;
        run({&dscore}, [&](Stream& s) { balance_backward(s, dscore, f, r.score, 0.3f); });
        const auto total = [&]<class C>(const Mat<C>& z) {
          C sum = 0;
          for (const C& v : ref::balance(z, choice_ref, B, K).loss.data) sum += v * static_cast<double>(0.3f);
          return sum;
        };
        EXPECT_LT(gradient_error(dscore.get(), total, r.score.get()), 4 * tol()) << B << "x" << S << "x" << E;
      }
}

TEST_P(FixedOpTest, BalanceLossOfPerfectBalanceIsOne) {
  const int64_t S = 24, E = 8, K = 2;
  std::vector<double> scores;
  for (int64_t t = 0; t < S; ++t)
    for (int64_t e = 0; e < E; ++e) scores.push_back((e + t) % E < K ? 0.9 - 0.01 * static_cast<double>(t) : 0.1);
  const Host score = Host(DType::f32, S, E).set(scores);
  Host loss(DType::f32, 1), f(DType::f32, 1, E), dscore(DType::f32, S, E);
  run({&loss, &f}, [&](Stream& s) { balance_forward(s, loss, f, score, Tensor(), K); });
  EXPECT_NEAR(loss.get()[0], 1, 1e-6);
  for (double v : f.get().data) EXPECT_NEAR(v, 1, 1e-6);
  run({&dscore}, [&](Stream& s) { balance_backward(s, dscore, f, score, 1); });
  for (double v : dscore.get().data) EXPECT_NEAR(v, 0, 1e-7);
}

TEST_P(FixedOpTest, BalanceLossCountsTiesAtTheLowestIndex) {
  const Host score = Host(DType::f32, 5, 12).fill(0.5);
  Host loss(DType::f32, 1), f(DType::f32, 1, 12);
  run({&loss, &f}, [&](Stream& s) { balance_forward(s, loss, f, score, Tensor(), 3); });
  for (int64_t e = 0; e < 12; ++e) EXPECT_NEAR(f.get()[e], e < 3 ? 4 : 0, 1e-6) << e;
}

}  // namespace
}  // namespace sluice::test
