#include "ops/loss.h"

#include "op_test.h"
#include "ops/ref/loss.h"

namespace sluice::test {
namespace {

const std::pair<int64_t, int64_t> kShapes[] = {{1, 1}, {1, 7}, {5, 33}, {130, 100}, {9, 1003}, {3, 16384}};
constexpr float kScale = 0.37f;

/// Targets with -1 in every fourth row (not the first).
std::vector<int64_t> targets(Rng& rng, int64_t tokens, int64_t vocabulary) {
  std::vector<int64_t> out;
  for (int64_t t = 0; t < tokens; ++t)
    out.push_back(t % 4 == 3 ? -1 : static_cast<int64_t>(rng.below(static_cast<uint64_t>(vocabulary))));
  return out;
}

TEST_P(FixedOpTest, CrossEntropyForward) {
  for (auto [T, V] : kShapes) {
    const Host logits = random(T, V, Rows::packed, 3);
    const std::vector<int64_t> target = targets(rng_, T, V);
    const Host target_T = i32_vector(target);
    Host loss(DType::f32, T), argmax(DType::i32, T), loss_alone(DType::f32, T);
    run({&loss, &argmax}, [&](Stream& s) { cross_entropy_forward(s, loss, argmax, logits, target_T); });
    run({&loss_alone}, [&](Stream& s) { cross_entropy_forward(s, loss_alone, Tensor(), logits, target_T); });
    EXPECT_LT(diff(loss.get(), ref::cross_entropy(logits.get(), target)), tol()) << T << "x" << V;
    EXPECT_EQ(argmax.integers(), ref::argmax(logits.get())) << T << "x" << V;
    EXPECT_TRUE(loss.bytes() == loss_alone.bytes());
  }
}

TEST_P(FixedOpTest, CrossEntropyBackward) {
  for (auto [T, V] : kShapes) {
    Host logits = random(T, V, Rows::packed, 3);
    const Mat<double> x = logits.get();
    const std::vector<int64_t> target = targets(rng_, T, V);
    const Host target_T = i32_vector(target);
    Host loss(DType::f32, T);
    run({&loss, &logits}, [&](Stream& s) { cross_entropy_backward(s, loss, logits, logits, target_T, kScale); });
    EXPECT_LT(diff(loss.get(), ref::cross_entropy(x, target)), tol()) << T << "x" << V;
    const auto sum = [&](const auto& z) {
      auto out = z[0] * 0.0;
      for (const auto& v : ref::cross_entropy(z, target).data) out += v * static_cast<double>(kScale);
      return out;
    };
    EXPECT_LT(gradient_error(logits.get(), sum, x), 2 * tol()) << T << "x" << V;
    const Mat<double> gradient = logits.get();
    for (int64_t t = 3; t < T; t += 4)
      for (int64_t v = 0; v < V; ++v) ASSERT_EQ(gradient(t, v), 0) << "row " << t << " has no target";
  }
}

TEST_P(FixedOpTest, CrossEntropyRoundsGradientsOnce) {
  for (auto [T, V] : kShapes) {
    Host exact = random(T, V, Rows::packed, 3), logits = exact, rounded(DType::bf16, T, V), expected = rounded;
    const Host target_T = i32_vector(targets(rng_, T, V));
    Host loss(DType::f32, T), same_loss = loss;
    run({&loss, &exact}, [&](Stream& s) { cross_entropy_backward(s, loss, exact, exact, target_T, kScale); });
    run({&same_loss, &rounded}, [&](Stream& s) {
      const Host lost = logits;
      cross_entropy_backward(s, same_loss, rounded, lost, target_T, kScale);
      s.synchronize();
    });
    EXPECT_TRUE(rounded.bytes() == expected.set(exact.get()).bytes()) << T << "x" << V;
    EXPECT_TRUE(loss.bytes() == same_loss.bytes()) << T << "x" << V;
  }
}

TEST_P(FixedOpTest, CrossEntropyWithoutAnyTarget) {
  Host logits = random(4, 20), loss(DType::f32, 4);
  const Host target = i32_vector({-1, -1, -1, -1}), untouched = logits;
  run({&loss}, [&](Stream& s) { cross_entropy_forward(s, loss, Tensor(), untouched, target); });
  EXPECT_EQ(loss.get().data, std::vector<double>(4, 0.0));
  run({&loss, &logits}, [&](Stream& s) { cross_entropy_backward(s, loss, logits, logits, target, kScale); });
  EXPECT_EQ(loss.get().data, std::vector<double>(4, 0.0));
  EXPECT_EQ(logits.get().data, std::vector<double>(80, 0.0));
}

TEST_P(FixedOpTest, CrossEntropyOfLargeLogits) {
  const std::vector<double> rows = {1e4, -1e4, 0, 9999, -1e4, 1e4, -1e4, -1e4, 1e4, 1e4, 1e4, 1e4};
  const std::vector<int64_t> target = {1, 0, 2};
  Host logits = Host(DType::f32, 3, 4).set(rows), loss(DType::f32, 3), argmax(DType::i32, 3);
  run({&loss, &argmax}, [&](Stream& s) { cross_entropy_forward(s, loss, argmax, logits, i32_vector(target)); });
  EXPECT_LT(diff(loss.get(), ref::cross_entropy(logits.get(), target)), tol());
  EXPECT_EQ(argmax.integers(), (std::vector<int64_t>{0, 1, 0}));
  EXPECT_NEAR(loss.get()[2], std::log(4.0), 1e-6);  // not rounded to the 1e-3 between float32 numbers at 1e4
  run({&loss, &logits}, [&](Stream& s) { cross_entropy_backward(s, loss, logits, logits, i32_vector(target), 1); });
  const double p = 1 / (1 + std::exp(-1.0));
  const std::vector<double> expected = {p, -1, 0, 1 - p, -1, 1, 0, 0, 0.25, 0.25, -0.75, 0.25};
  for (size_t i = 0; i < 12; ++i) EXPECT_NEAR(logits.get()[static_cast<int64_t>(i)], expected[i], 1e-6) << i;
}

TEST_P(FixedOpTest, CrossEntropyOfCertainAndHopelessTargets) {
  Host logits = Host(DType::f32, 1, 3).set(std::vector<double>{0, 20, -300}), loss(DType::f32, 1);
  for (int64_t target : {0, 1, 2}) {
    run({&loss}, [&](Stream& s) { cross_entropy_forward(s, loss, Tensor(), logits, i32_vector({target})); });
    EXPECT_NEAR(loss.get()[0], ref::cross_entropy(logits.get(), {target})[0], target == 1 ? 1e-8 : 3e-5) << target;
  }
}

TEST_P(FixedOpTest, ArgmaxOfTiesIsTheLowestIndex) {
  Host logits(DType::f32, 4, 300), loss(DType::f32, 4), argmax(DType::i32, 4);
  std::vector<double> rows(1200, -2);
  for (size_t i : {17u, 18u, 290u}) rows[i] = 5;         // row 0
  for (size_t i : {299u, 33u, 250u}) rows[300 + i] = 1;  // row 1
  for (size_t i = 600; i < 900; ++i) rows[i] = -7;       // row 2: all equal
  rows[900 + 299] = -1;                                  // row 3: the last column
  logits.set(rows);
  run({&loss, &argmax}, [&](Stream& s) { cross_entropy_forward(s, loss, argmax, logits, i32_vector({0, 1, -1, -1})); });
  EXPECT_EQ(argmax.integers(), (std::vector<int64_t>{17, 33, 0, 299}));
}

TEST_P(FixedOpTest, CrossEntropyDoesNotHideNaN) {
  for (size_t at : {0u, 5u, 36u}) {  // first, middle, tail
    std::vector<double> rows(74, 1);
    rows[37 + at] = std::numeric_limits<double>::quiet_NaN();
    Host logits = Host(DType::f32, 2, 37).set(rows), loss(DType::f32, 2), argmax(DType::i32, 2);
    run({&loss, &argmax}, [&](Stream& s) { cross_entropy_forward(s, loss, argmax, logits, i32_vector({3, 3})); });
    EXPECT_LT(static_cast<uint64_t>(argmax.integers()[1]), 37u) << "not a column: NaN in column " << at;
    EXPECT_NEAR(loss.get()[0], std::log(37.0), 1e-5);
    EXPECT_TRUE(std::isnan(loss.get()[1])) << "NaN in column " << at << " gives loss " << loss.get()[1];
    run({&loss, &logits}, [&](Stream& s) { cross_entropy_backward(s, loss, logits, logits, i32_vector({3, 3}), 1); });
    EXPECT_TRUE(std::isnan(loss.get()[1])) << "NaN in column " << at << " gives loss " << loss.get()[1];
  }
}

}  // namespace
}  // namespace sluice::test
