// The devices and dtypes of all op tests, and tests of the kit itself.
#include <gtest/gtest-spi.h>

#include <functional>

#include "base/config.h"
#include "op_test.h"

namespace sluice::test {
namespace {

std::vector<Case> cases(std::initializer_list<DType> dtypes) {
  std::vector<Case> out;
  for (const Device::Kind device : {Device::Kind::cpu, Device::Kind::cuda})
    for (const DType dtype : dtypes)
      if (kHasCuda || device == Device::Kind::cpu) out.push_back({device, dtype, tolerance(dtype)});
  return out;
}

const auto case_name = [](const testing::TestParamInfo<Case>& info) { return name(info.param); };

INSTANTIATE_TEST_SUITE_P(Ops, OpTest, testing::ValuesIn(cases({DType::f32, DType::bf16})), case_name);
INSTANTIATE_TEST_SUITE_P(Ops, FixedOpTest, testing::ValuesIn(cases({DType::f32})), case_name);

TEST(Kit, ComplexStepIsExact) {
  Rng rng(3);
  for (int64_t size : {5, 500}) {
    Mat<double> x(1, size), gradient(1, size);
    for (double& v : x.data) v = rng.normal();
    const auto loss = [](const auto& z) {
      auto product = z[0] * 0.0;
      for (const auto& v : z.data) product += std::exp(v) * v;
      return product;
    };
    for (int64_t i = 0; i < size; ++i) gradient[i] = std::exp(x[i]) * (1 + x[i]);
    EXPECT_LT(gradient_error(gradient, loss, x), 1e-14);
    gradient[size / 2] *= -1;
    EXPECT_GT(gradient_error(gradient, loss, x), 1e-4);
  }
}

TEST(Kit, RunFindsGapsWrittenAndResultsThatDependOnThreads) {
  const auto failures_of = [](const std::function<void(Host&, Stream&)>& op) {
    Host y(DType::f32, 2, 3, Rows::strided);
    testing::TestPartResultArray failures;
    testing::ScopedFakeTestPartResultReporter reporter(
        testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &failures);
    run({&y}, [&](Stream& s) { op(y, s); });
    return failures.size();
  };
  EXPECT_EQ(failures_of([](Host& y, Stream&) { y.fill(1); }), 0);
  EXPECT_EQ(failures_of([](Host& y, Stream&) { y.tensor().f32()[3] = 0; }), 3);
  EXPECT_EQ(failures_of([](Host& y, Stream&) { y.tensor().f32()[-1] = 0; }), 3);
  EXPECT_EQ(failures_of([](Host& y, Stream& s) { y.fill(s.threads()); }), 2);
}

TEST(Kit, HostRoundsAndPoisons) {
  Host y(DType::bf16, 1, 2);
  EXPECT_TRUE(std::isnan(y.get()[0]));
  y.set(std::vector<double>{1 + 0x1p-8, 1 + 0x3p-8});
  EXPECT_EQ(y.get()[0], 1);
  EXPECT_EQ(y.get()[1], 1 + 0x1p-6);
  EXPECT_EQ(diff(y.get(), Mat<double>(1, 3)), std::numeric_limits<double>::infinity());
}

}  // namespace
}  // namespace sluice::test
