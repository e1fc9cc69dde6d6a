#include "ops/swiglu.h"

#include "op_test.h"
#include "ops/ref/swiglu.h"

namespace sluice::test {
namespace {

const std::pair<int64_t, int64_t> kShapes[] = {{1, 1}, {1, 16}, {3, 37}, {130, 96}, {70, 1001}};

TEST_P(OpTest, SwigluForward) {
  for (auto [T, F] : kShapes) {
    const Host g = random(T, F, Rows::strided, 3), u = random(T, F);
    Host h = output(T, F, Rows::strided);
    run({&h}, [&](Stream& s) { swiglu_forward(s, h, g, u); });
    EXPECT_LT(diff(h.get(), ref::swiglu(g.get(), u.get())), tol()) << T << "x" << F;
  }
}

TEST_P(OpTest, SwigluBackward) {
  for (auto [T, F] : kShapes) {
    const Host g = random(T, F, Rows::packed, 3), u = random(T, F, Rows::strided), dh = random(T, F);
    Host dg = output(T, F, Rows::strided), du = output(T, F);
    run({&dg, &du}, [&](Stream& s) { swiglu_backward(s, dg, du, dh, g, u); });
    const auto loss_g = [&]<class C>(const Mat<C>& z) { return dot(ref::swiglu(z, lift<C>(u.get())), dh.get()); };
    const auto loss_u = [&]<class C>(const Mat<C>& z) { return dot(ref::swiglu(lift<C>(g.get()), z), dh.get()); };
    EXPECT_LT(gradient_error(dg.get(), loss_g, g.get()), tol()) << T << "x" << F;
    EXPECT_LT(gradient_error(du.get(), loss_u, u.get()), tol()) << T << "x" << F;
  }
}

TEST_P(OpTest, SwigluBackwardInPlace) {
  const Host g = random(5, 70), u = random(5, 70), dh = random(5, 70);
  Host dg = output(5, 70), du = output(5, 70), g_dg = g, u_du = u;
  run({&dg, &du}, [&](Stream& s) { swiglu_backward(s, dg, du, dh, g, u); });
  run({&g_dg, &u_du}, [&](Stream& s) { swiglu_backward(s, g_dg, u_du, dh, g_dg, u_du); });
  EXPECT_TRUE(g_dg.bytes() == dg.bytes());
  EXPECT_TRUE(u_du.bytes() == du.bytes());
}

TEST_P(OpTest, SwigluOfExtremeGatesIsFinite) {
  const std::vector<double> gates = {-1e4, -200, -100, -90, -88, 88, 90, 100, 200, 1e4, 0, -0.0};
  const Host g = output(1, 12).set(gates), u = output(1, 12).fill(2), dh = output(1, 12).fill(1);
  Host h = output(1, 12), dg = output(1, 12), du = output(1, 12);
  run({&h}, [&](Stream& s) { swiglu_forward(s, h, g, u); });
  run({&dg, &du}, [&](Stream& s) { swiglu_backward(s, dg, du, dh, g, u); });
  for (int64_t i = 0; i < 12; ++i) {
    const double silu = g.get()[i] > 0 ? g.get()[i] : 0, slope = g.get()[i] > 0 ? 1 : g.get()[i] == 0 ? 0.5 : 0;
    EXPECT_NEAR(h.get()[i], 2 * silu, 1e-5) << gates[static_cast<size_t>(i)];
    EXPECT_NEAR(dg.get()[i], 2 * slope, 1e-5) << gates[static_cast<size_t>(i)];
    EXPECT_NEAR(du.get()[i], silu, 1e-5) << gates[static_cast<size_t>(i)];
  }
}

}  // namespace
}  // namespace sluice::test
