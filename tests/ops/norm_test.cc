#include "ops/norm.h"

#include "op_test.h"
#include "ops/ref/norm.h"

namespace sluice::test {
namespace {

constexpr float kEps = 1e-6f;
struct Shape {
  int64_t tokens, dims;
  Rows layout;
};
const Shape kShapes[] = {{1, 1, Rows::packed},    {1, 16, Rows::packed},  {3, 512, Rows::packed},
                         {7, 144, Rows::strided}, {5, 13, Rows::strided}, {130, 100, Rows::packed},
                         {300, 67, Rows::strided}};

TEST_P(OpTest, RmsNormForward) {
  for (auto [T, D, layout] : kShapes) {
    const Host x = random(T, D, layout), w = random_vector(dtype(), D);
    Host y = output(T, D, layout), r(DType::f32, T);
    run({&y, &r}, [&](Stream& s) { rmsnorm_forward(s, y, r, x, w, kEps); });
    EXPECT_LT(diff(y.get(), ref::rmsnorm(x.get(), w.get(), kEps)), tol()) << T << "x" << D;
    EXPECT_LT(diff(r.get(), ref::rms_reciprocal(x.get(), kEps)), kTolF32) << T << "x" << D;
  }
}

TEST_P(OpTest, RmsNormEpsDecidesSmallRows) {
  const Host x = random(3, 40, Rows::packed, 1e-3), w = random_vector(dtype(), 40);
  Host y = output(3, 40), r(DType::f32, 3), zero = output(3, 40);
  zero.fill(0);
  run({&y, &r}, [&](Stream& s) { rmsnorm_forward(s, y, r, x, w, kEps); });
  EXPECT_LT(diff(y.get(), ref::rmsnorm(x.get(), w.get(), kEps)), tol());
  run({&y, &r}, [&](Stream& s) { rmsnorm_forward(s, y, r, zero, w, kEps); });
  EXPECT_EQ(y.get().data, std::vector<double>(120, 0.0));
}

TEST_P(OpTest, RmsNormBackwardInput) {
  for (auto [T, D, layout] : kShapes) {
    const Host x = random(T, D, layout), w = random_vector(dtype(), D), dy = random(T, D, layout);
    Host y = output(T, D), r(DType::f32, T), dx = output(T, D, layout);
    rmsnorm_forward(stream(1), y, r, x, w, kEps);
    run({&dx}, [&](Stream& s) { rmsnorm_backward_input(s, dx, dy, x, w, r); });
    const auto loss = [&]<class C>(const Mat<C>& z) { return dot(ref::rmsnorm(z, lift<C>(w.get()), kEps), dy.get()); };
    // The gradient of one column is exactly 0 but for eps: what is left of a difference.
    if (D == 1)
      EXPECT_LT(std::abs(dx.get()[0] - complex_step(loss, x.get())[0]), tol());
    else
      EXPECT_LT(gradient_error(dx.get(), loss, x.get()), 2 * tol()) << T << "x" << D;
  }
}

TEST_P(OpTest, RmsNormBackwardWeight) {
  for (auto [T, D, layout] : kShapes) {
    const Host x = random(T, D, layout), w = random_vector(dtype(), D), dy = random(T, D, layout);
    Host y = output(T, D), r(DType::f32, T), dw = random_vector(DType::f32, D);
    const Mat<double> before = dw.get();
    rmsnorm_forward(stream(1), y, r, x, w, kEps);
    run({&dw}, [&](Stream& s) { rmsnorm_backward_weight(s, dw, dy, x, r); });
    const auto loss = [&]<class C>(const Mat<C>& z) { return dot(ref::rmsnorm(lift<C>(x.get()), z, kEps), dy.get()); };
    EXPECT_LT(gradient_error(minus(dw.get(), before), loss, w.get()), 4 * kTolF32) << T << "x" << D;
  }
}

}  // namespace
}  // namespace sluice::test
