#include "ops/elementwise.h"

#include "op_test.h"

namespace sluice::test {
namespace {

struct Shape {
  int64_t rows, cols;
  Rows layout;
};
const Shape kShapes[] = {{1, 1, Rows::packed},
                         {3, 37, Rows::strided},
                         {130, 65, Rows::packed},
                         {5, 1000, Rows::strided},
                         {70, 1001, Rows::packed}};
const DType kBoth[] = {DType::f32, DType::bf16};

TEST_P(OpTest, CopyRoundsOnce) {
  for (auto [T, D, layout] : kShapes)
    for (DType from : kBoth) {
      const Host x = random_as(from, T, D, layout);
      Host y = output(T, D, layout), expected = output(T, D);
      run({&y}, [&](Stream& s) { copy(s, y, x); });
      EXPECT_EQ(y.get().data, expected.set(x.get()).get().data) << T << "x" << D;
    }
}

TEST_P(FixedOpTest, CopyOfIntegersKeepsEveryBit) {
  for (auto [T, D, layout] : kShapes) {
    std::vector<int64_t> values(static_cast<size_t>(T * D));
    for (int64_t& v : values) v = static_cast<int32_t>(rng_.next());  // NaN as float32, among others
    values[0] = 0x7f800001;
    const Host x = Host(DType::i32, T, D, layout).set(values);
    Host y(DType::i32, T, D, layout);
    run({&y}, [&](Stream& s) { copy(s, y, x); });
    EXPECT_EQ(y.integers(), values) << T << "x" << D;
  }
}

TEST_P(OpTest, CopyKeepsSpecialValues) {
  const double inf = std::numeric_limits<double>::infinity();
  const Host x = Host(DType::f32, 1, 4).set(std::vector<double>{inf, -inf, -0.0, 3.4e38});
  Host y = output(1, 4), nan = output(1, 4);
  run({&y}, [&](Stream& s) { copy(s, y, x); });
  EXPECT_EQ(y.get()[0], inf);
  EXPECT_EQ(y.get()[1], -inf);
  EXPECT_TRUE(y.get()[2] == 0 && std::signbit(y.get()[2]));
  EXPECT_EQ(y.get()[3], dtype() == DType::f32 ? x.get()[3] : inf);
  run({&nan}, [&](Stream& s) { copy(s, nan, Host(DType::f32, 1, 4).fill(std::nan(""))); });
  for (double v : nan.get().data) EXPECT_TRUE(std::isnan(v));
}

TEST_P(OpTest, AddRoundsOnce) {
  for (auto [T, D, layout] : kShapes)
    for (DType a_dtype : kBoth)
      for (DType b_dtype : kBoth) {
        const Host a = random_as(a_dtype, T, D, layout), b = random_as(b_dtype, T, D);
        Host y = output(T, D, layout), expected = output(T, D), a_y = a, b_y = b;
        run({&y}, [&](Stream& s) { add(s, y, a, b); });
        Mat<double> sum = a.get();
        const Mat<double> second = b.get();
        for (int64_t i = 0; i < sum.size(); ++i) sum[i] = static_cast<float>(sum[i]) + static_cast<float>(second[i]);
        EXPECT_EQ(y.get().data, expected.set(sum).get().data) << T << "x" << D;
        if (a_dtype != dtype() || b_dtype != dtype()) continue;
        run({&a_y}, [&](Stream& s) { add(s, a_y, a_y, b); });
        run({&b_y}, [&](Stream& s) { add(s, b_y, a, b_y); });
        EXPECT_EQ(a_y.get().data, y.get().data) << "in place of a, " << T << "x" << D;
        EXPECT_EQ(b_y.get().data, y.get().data) << "in place of b, " << T << "x" << D;
      }
}

TEST_P(OpTest, ZeroClearsElementsAlone) {
  for (auto [T, D, layout] : kShapes) {
    Host x = output(T, D, layout);
    run({&x}, [&](Stream& s) { zero(s, x); });
    EXPECT_EQ(x.get().data, std::vector<double>(static_cast<size_t>(T * D), 0.0));
  }
}

}  // namespace
}  // namespace sluice::test
