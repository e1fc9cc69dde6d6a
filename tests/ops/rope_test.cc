#include "ops/rope.h"

#include "op_test.h"
#include "ops/ref/rope.h"

namespace sluice::test {
namespace {

struct Shape {
  int64_t tokens, heads, dims;
  Rows layout;
};
const Shape kShapes[] = {{1, 1, 2, Rows::packed},   {3, 1, 64, Rows::strided}, {5, 4, 8, Rows::packed},
                         {7, 3, 10, Rows::strided}, {130, 2, 6, Rows::packed}, {33, 16, 64, Rows::strided}};
constexpr ref::Yarn kV3{.factor = 40};
constexpr double kMagnitude = 1.25;  // exact in float32

std::vector<int64_t> positions(int64_t tokens) {
  std::vector<int64_t> p;
  for (int64_t t = 0; t < tokens; ++t) p.push_back((t * 37 + 5) % 150);
  return p;
}

Host rope_table(int64_t dims) {
  return Host(DType::f32, 150, dims).set(ref::rope_table(150, ref::rope_inv_freq(dims, kV3), kMagnitude));
}

TEST_P(OpTest, RopeForward) {
  for (auto [T, H, R, layout] : kShapes) {
    const std::vector<int64_t> p = positions(T);
    const Host table = rope_table(R), position = i32_vector(p);
    Host x = random(T * H, R, layout);
    const Mat<double> before = x.get();
    run({&x}, [&](Stream& s) { rope_forward(s, x, position, table); });
    EXPECT_LT(diff(x.get(), ref::rope(before, p, table.get())), tol()) << T << "x" << H << "x" << R;
  }
}

TEST_P(OpTest, RopeBackward) {
  for (auto [T, H, R, layout] : kShapes) {
    const std::vector<int64_t> p = positions(T);
    const Host table = rope_table(R), position = i32_vector(p);
    Host dx = random(T * H, R, layout);
    const Mat<double> dy = dx.get();
    run({&dx}, [&](Stream& s) { rope_backward(s, dx, position, table); });
    const auto loss = [&](const auto& z) { return dot(ref::rope(z, p, table.get()), dy); };
    EXPECT_LT(gradient_error(dx.get(), loss, Mat<double>(T * H, R)), tol()) << T << "x" << H << "x" << R;
  }
}

TEST_P(OpTest, RopeRotatesTheTailOfEveryHead) {
  const int64_t T = 4, H = 3, nope = 5, R = 6;
  const std::vector<int64_t> p = positions(T);
  const Host table = rope_table(R), position = i32_vector(p);
  Host q = random(T, H * (nope + R));
  const Mat<double> before = q.get();
  run({&q}, [&](Stream& s) { rope_forward(s, q.tensor().split_heads(H).slice_cols(nope, R), position, table); });
  Mat<double> tail(T * H, R), expected = before;
  for (int64_t r = 0; r < T * H; ++r)
    for (int64_t i = 0; i < R; ++i) tail(r, i) = before[r * (nope + R) + nope + i];
  const Mat<double> rotated = ref::rope(tail, p, table.get());
  for (int64_t r = 0; r < T * H; ++r)
    for (int64_t i = 0; i < R; ++i) expected[r * (nope + R) + nope + i] = rotated(r, i);
  EXPECT_LT(diff(q.get(), expected), tol());
  for (int64_t r = 0; r < T * H; ++r)
    for (int64_t i = 0; i < nope; ++i) EXPECT_EQ(q.get()[r * (nope + R) + i], before[r * (nope + R) + i]);
}

TEST_P(OpTest, RopePositionZeroChangesNothing) {
  const Host table = Host(DType::f32, 1, 8).set(ref::rope_table(1, ref::rope_inv_freq(8, kV3), 1));
  Host x = random(3, 8);
  const Host before = x;
  run({&x}, [&](Stream& s) { rope_forward(s, x, i32_vector({0, 0, 0}), table); });
  EXPECT_EQ(x.get().data, before.get().data);
}

TEST(Yarn, FrequenciesOfV3) {
  const std::vector<double> f = ref::rope_inv_freq(64, kV3);
  const std::pair<size_t, double> table[] = {{0, 1.0},
                                             {10, 5.623413252e-2},
                                             {11, 3.900692657e-2},
                                             {16, 5.5e-3},
                                             {20, 7.905694150e-4},
                                             {23, 3.333803580e-5},
                                             {31, 3.333803580e-6}};
  ASSERT_EQ(f.size(), 32u);
  for (auto [i, value] : table) EXPECT_NEAR(f[i] / value, 1, 1e-9) << i;
  const std::vector<double> plain = ref::rope_inv_freq(64, {});
  const std::pair<size_t, double> plain_table[] = {
      {0, 1.0}, {11, 4.216965034e-2}, {16, 1e-2}, {20, 3.162277660e-3}, {31, 1.333521432e-4}};
  for (auto [i, value] : plain_table) EXPECT_NEAR(plain[i] / value, 1, 1e-9) << i;
}

TEST(Yarn, ScalesOfV3AndV2Lite) {
  EXPECT_NEAR(ref::softmax_scale(192, {}), 0.0721687836, 1e-10);
  EXPECT_NEAR(ref::yarn_m(40, 1), 1.3688879454, 1e-10);
  EXPECT_NEAR(ref::softmax_scale(192, kV3), 0.1352337789, 1e-10);
  EXPECT_NEAR(ref::yarn_m(40, 0.707), 1.2608037774, 1e-10);
  EXPECT_NEAR(ref::softmax_scale(192, {.factor = 40, .mscale = 0.707, .mscale_all_dim = 0.707}) * std::sqrt(192.0),
              1.5896261652, 1e-10);
}

TEST(Yarn, MagnitudeIsOneUnlessTheTwoSettingsDiffer) {
  EXPECT_EQ(ref::yarn_magnitude(kV3), 1);
  EXPECT_EQ(ref::yarn_magnitude({.factor = 1, .mscale = 2}), 1);
  EXPECT_NEAR(ref::yarn_magnitude({.factor = 40, .mscale = 1, .mscale_all_dim = 0.707}), 1.3688879454 / 1.2608037774,
              1e-9);
}

}  // namespace
}  // namespace sluice::test
