#include "ops/quant.h"

#include "base/fp8.h"
#include "op_test.h"
#include "ops/ref/quant.h"

namespace sluice::test {
namespace {

struct Codes {
  int64_t rows, cols;
  SharedVector<uint8_t> bytes;
  Codes(int64_t rows_, int64_t cols_) : rows(rows_), cols(cols_), bytes(static_cast<size_t>(rows_ * cols_), 0x55) {}
  Tensor tensor() { return Tensor(bytes.data(), DType::f8_e4m3, {rows, cols}); }
  Matrix matrix(const Host& scales) { return {bytes.data(), scales.tensor().f32(), Format::fp8_128, rows, cols}; }
};

/// A quantising op of the contract as fn(stream, codes, scale, x, power_of_two), and its groups.
struct Op {
  int64_t group_rows, group_cols;
  void (*call)(Stream&, Codes&, Host&, const Tensor&, bool);
};

const Op kOps[] = {
    {1, 128,
     [](Stream& s, Codes& c, Host& scale, const Tensor& x, bool p) { quantize_rows(s, c.tensor(), scale, x, p); }},
    {128, 1,
     [](Stream& s, Codes& c, Host& scale, const Tensor& x, bool p) { quantize_columns(s, c.tensor(), scale, x, p); }},
    {128, 128,
     [](Stream& s, Codes& c, Host& scale, const Tensor& x, bool p) { quantize_weight(s, c.matrix(scale), x, p); }},
};

int64_t groups(int64_t n, int64_t group) { return (n + group - 1) / group; }

struct Result {
  Codes codes;
  Host scale;
};

/// Runs on all tested streams, which must agree.
Result quantize(const Op& op, const Tensor& x, bool power_of_two) {
  const int64_t rows = x.rows(), cols = x.cols();
  Result r{Codes(rows, cols), Host(DType::f32, groups(rows, op.group_rows), groups(cols, op.group_cols))};
  SharedVector<uint8_t> first;
  run({&r.scale}, [&](Stream& s) {
    std::fill(r.codes.bytes.begin(), r.codes.bytes.end(), uint8_t{0x55});
    op.call(s, r.codes, r.scale, x, power_of_two);
    s.synchronize();
    if (first.empty()) first = r.codes.bytes;
    EXPECT_EQ(r.codes.bytes, first);
  });
  return r;
}

/// Normal numbers whose magnitude changes from group to group, with zeros, subnormals and huge values among them.
Mat<double> wild(int64_t rows, int64_t cols, uint64_t seed) {
  Rng rng(seed);
  Mat<double> m(rows, cols);
  for (int64_t i = 0; i < rows; ++i) {
    double magnitude = 1;
    for (int64_t j = 0; j < cols; ++j) {
      if (j % 64 == 0) magnitude = std::ldexp(1.0, static_cast<int>(rng.below(60)) - 40);
      if (j % 64 == 0 && rng.below(8) == 0) magnitude = rng.below(2) ? 0 : 1e30;
      m(i, j) = rng.below(10) == 0 ? 1e-40 : magnitude * rng.normal();
    }
  }
  return m;
}

TEST_P(OpTest, QuantizeIsTheReference) {
  const std::pair<int64_t, int64_t> shapes[] = {{1, 1}, {1, 128}, {3, 100}, {128, 1}, {129, 300}, {257, 129}, {0, 5}};
  for (auto [rows, cols] : shapes)
    for (Rows layout : {Rows::packed, Rows::strided})
      for (bool power_of_two : {false, true})
        for (const Op& op : kOps) {
          const Host x = Host(dtype(), rows, cols, layout).set(wild(rows, cols, 7));
          Result r = quantize(op, x, power_of_two);
          const ref::Quantized expected = ref::quantize(x.get(), op.group_rows, op.group_cols, power_of_two);
          EXPECT_EQ(r.scale.get().data, expected.scale.data) << rows << "x" << cols << " by " << op.group_rows;
          std::vector<double> codes;
          for (uint8_t c : r.codes.bytes) codes.push_back(e4m3_to_f32(c));
          EXPECT_EQ(codes, expected.code.data) << rows << "x" << cols << " by " << op.group_rows;
        }
}

TEST_P(OpTest, DequantizeIsCodeTimesScale) {
  for (auto [rows, cols] : {std::pair{1, 1}, {130, 257}, {128, 256}})
    for (const int scale_rows : {1, 128}) {
      Codes codes(rows, cols);
      for (uint8_t& c : codes.bytes) c = static_cast<uint8_t>(rng_.next());
      Host scale = random_as(DType::f32, groups(rows, scale_rows), groups(cols, 128)),
           x = output(rows, cols, Rows::strided);
      run({&x}, [&](Stream& s) {
        scale_rows == 1 ? dequantize_rows(s, x, codes.tensor(), scale) : dequantize_weight(s, x, codes.matrix(scale));
      });
      Host expected = output(rows, cols);
      Mat<double> values(rows, cols), scales = scale.get();
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; ++j)
          values(i, j) = e4m3_to_f32(codes.bytes[static_cast<size_t>(i * cols + j)]) *
                         static_cast<float>(scales(i / scale_rows, j / 128));
      const Mat<double> got = x.get(), want = expected.set(values).get();
      for (int64_t i = 0; i < got.size(); ++i)
        EXPECT_TRUE(got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i]))) << i;
    }
}

// Scale 1: the codes are those of single numbers.
TEST_P(FixedOpTest, RoundingAgreesWithScalarConversion) {
  constexpr int64_t kRows = 2000;
  Mat<double> m(kRows, 128);
  for (double& v : m.data) {
    const float f = std::bit_cast<float>(static_cast<uint32_t>(rng_.next()) & 0xfff0'0000u);  // ties are frequent
    v = std::abs(f) <= 448.0f ? f : rng_.normal();
  }
  for (int64_t i = 0; i < kRows; ++i) m(i, i % 128) = 448;
  const Host x = Host(DType::f32, kRows, 128).set(m);
  const Result r = quantize(kOps[0], x, true);
  for (int64_t i = 0; i < m.size(); ++i)
    ASSERT_EQ(r.codes.bytes[static_cast<size_t>(i)], e4m3_from_f32(static_cast<float>(m[i]))) << m[i];
}

TEST_P(FixedOpTest, PowersOfTwoLoseNoRangeAndNeverOverflow) {
  std::vector<double> amax;
  for (int e = -13; e < 110; ++e)
    for (float f : {448.0f, std::nextafter(448.0f, 0.0f), std::nextafter(448.0f, 1e3f), 256.0f, 447.99f, 449.0f})
      amax.push_back(std::ldexp(f, e));
  const int64_t n = static_cast<int64_t>(amax.size());
  const Host x = Host(DType::f32, n, 1).set(amax);
  const Result r = quantize(kOps[0], x, true);
  const Mat<double> scale = r.scale.get();
  for (int64_t i = 0; i < n; ++i) {
    EXPECT_LE(amax[static_cast<size_t>(i)] / scale[i], 448.0) << amax[static_cast<size_t>(i)];
    EXPECT_GT(amax[static_cast<size_t>(i)] / scale[i], 224.0) << amax[static_cast<size_t>(i)];
    int exponent;
    EXPECT_EQ(std::frexp(scale[i], &exponent), 0.5);
  }
}

TEST_P(FixedOpTest, NanStaysNanAndSpoilsNoNeighbour) {
  for (const Op& op : kOps)
    for (bool power_of_two : {false, true}) {
      Mat<double> clean(130, 140);
      for (double& v : clean.data) v = rng_.normal();
      clean(5, 7) = clean(129, 139) = 0;
      Mat<double> spoilt = clean;
      spoilt(5, 7) = std::nan("");
      spoilt(129, 139) = -std::nan("");
      const Result a = quantize(op, Host(DType::f32, 130, 140).set(clean), power_of_two);
      const Result b = quantize(op, Host(DType::f32, 130, 140).set(spoilt), power_of_two);
      EXPECT_EQ(a.scale.bytes(), b.scale.bytes());
      for (size_t i = 0; i < a.codes.bytes.size(); ++i) {
        const bool nan = i == 5 * 140 + 7 || i == 129 * 140 + 139;
        EXPECT_EQ(nan ? b.codes.bytes[i] & 0x7f : b.codes.bytes[i], nan ? 0x7f : a.codes.bytes[i]);
      }
    }
}

TEST_P(FixedOpTest, InfinityIsNotHidden) {
  for (bool power_of_two : {false, true}) {
    Host x = random(3, 200), y(DType::f32, 3, 200);
    Mat<double> m = x.get();
    m(1, 3) = -std::numeric_limits<double>::infinity();
    Result r = quantize(kOps[2], x.set(m), power_of_two);
    run({&y}, [&](Stream& s) { dequantize_weight(s, y, r.codes.matrix(r.scale)); });
    for (int64_t j = 0; j < 200; ++j) EXPECT_EQ(std::isnan(y.get()(2, j)), j < 128) << j;
  }
}

// As released: scale = amax / 448, so every block has a code of +-448. From f32 and from bf16 the same codes come back.
TEST_P(OpTest, ReleasedWeightsSurviveDequantizing) {
  constexpr int64_t kRows = 300, kCols = 400;
  Codes codes(kRows, kCols);
  for (uint8_t& c : codes.bytes) do
      c = static_cast<uint8_t>(rng_.next());
    while ((c & 0x7f) == 0x7f);
  for (int64_t i = 0; i < kRows; i += 128)
    for (int64_t j = 0; j < kCols; j += 128) codes.bytes[static_cast<size_t>(i * kCols + j + 5)] = 0xfe;
  Host scale(DType::f32, 3, 4), x = output(kRows, kCols);
  Mat<double> scales(3, 4);
  for (double& v : scales.data) v = 1e-4 * (1 + rng_.uniform());
  scale.set(scales);
  run({&x}, [&](Stream& s) { dequantize_weight(s, x, codes.matrix(scale)); });
  const Result again = quantize(kOps[2], x, false);
  EXPECT_EQ(again.codes.bytes, codes.bytes);
  EXPECT_LT(diff(again.scale.get(), scale.get()), dtype() == DType::f32 ? 1.2e-7 : 3e-3);
}

// Why re-tiled activations have power-of-two scales: the second quantisation then rounds nothing it can represent.
TEST_P(FixedOpTest, RetilingPowersOfTwoIsExact) {
  const Mat<double> x = random(256, 256).get();
  const auto retile_error = [&](bool power_of_two) {
    const Mat<double> rows = ref::quantize(x, 1, 128, power_of_two).values();
    const Host h = Host(DType::f32, 256, 256).set(rows);
    Result r = quantize(kOps[1], h, power_of_two);
    const Mat<double> scale = r.scale.get();
    Mat<double> columns(256, 256);
    for (int64_t i = 0; i < columns.size(); ++i)
      columns[i] = e4m3_to_f32(r.codes.bytes[static_cast<size_t>(i)]) * scale(i / 256 / 128, i % 256);
    return diff(columns, rows);
  };
  EXPECT_LT(retile_error(true), 1e-4);
  EXPECT_GT(retile_error(false), 1e-2);
}

TEST(Quant, ChecksItsContract) {
  Stream dry = Stream::dry();
  Codes codes(4, 200);
  const Host x(DType::f32, 4, 200), scale(DType::f32, 4, 2), wrong(DType::f32, 4, 1);
  EXPECT_NO_THROW(quantize_rows(dry, codes.tensor(), scale, x, true));
  EXPECT_EQ(codes.bytes[0], 0x55);
  EXPECT_THROW(quantize_rows(dry, codes.tensor(), wrong, x, true), Bug);
  EXPECT_THROW(dequantize_rows(dry, x, codes.tensor(), wrong), Bug);
  EXPECT_THROW(quantize_columns(dry, codes.tensor(), scale, x, true), Bug);
  EXPECT_THROW(quantize_weight(dry, as_matrix(x), x, true), Bug);
  EXPECT_THROW(dequantize_weight(dry, wrong, codes.matrix(scale)), Bug);
}

}  // namespace
}  // namespace sluice::test
