// Products with packed weights: values against sums in double of the rounded activations and the dequantised weights,
// and the same bits for every number of rows, threads and neighbours.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "op_test.h"
#include "ops/block_format.h"
#include "ops/block_quant.h"
#include "ops/packed.h"
#include "ops/quant.h"

namespace sluice::test {
namespace {

constexpr Format kFormats[] = {Format::f32,  Format::bf16, Format::fp8_128, Format::q4_0,  Format::q4_1,
                               Format::q5_0, Format::q5_1, Format::q8_0,    Format::q2_k,  Format::q3_k,
                               Format::q4_k, Format::q5_k, Format::q6_k,    Format::iq4_nl};

struct Aligned {
  std::byte* data;
  explicit Aligned(size_t bytes) : data(static_cast<std::byte*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64))) {
    std::memset(data, 0xff, (bytes + 63) / 64 * 64);
  }
  ~Aligned() { std::free(data); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
};

std::vector<float> normals(int64_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = static_cast<float>(rng.normal());
  return v;
}

/// A quantised matrix in file order and its exact values.
struct Blocks {
  std::vector<uint8_t> bytes;
  std::vector<float> values, scales;
  Matrix matrix;
  Blocks(Format format, int64_t rows, int64_t cols, uint64_t seed) : values(normals(rows * cols, seed)) {
    bytes.resize(static_cast<size_t>(rows * row_bytes(format, cols)));
    matrix.data = bytes.data();
    matrix.format = format;
    matrix.rows = rows;
    matrix.cols = cols;
    if (format == Format::fp8_128) {
      quantize_fp8();
      return;
    }
    for (int64_t r = 0; r < rows; ++r) {
      uint8_t* row = bytes.data() + r * row_bytes(format, cols);
      quantize_row(values.data() + r * cols, format, cols, nullptr, row);
      dequantize_row(row, format, cols, values.data() + r * cols);
    }
  }

 private:
  void quantize_fp8() {
    Stream s(1);
    scales.resize(static_cast<size_t>(matrix.scale_rows() * matrix.scale_cols()));
    matrix.scales = scales.data();
    const Tensor t(values.data(), {matrix.rows, matrix.cols});
    quantize_weight(s, matrix, t, false);
    for (size_t i = 0; i < 256 && i < bytes.size(); ++i)  // every code but NaN
      if ((i & 127) != 127) bytes[i] = static_cast<uint8_t>(i);
    dequantize_weight(s, t, matrix);
  }
};

struct Packed {
  Aligned memory;
  PackedMatrix matrix;
  Packed(Stream& s, const Matrix& w)
      : memory(packed_bytes(w.format, w.rows, w.cols)), matrix{memory.data, w.format, w.rows, w.cols} {
    pack_matrix(s, matrix, w);
  }
};

struct Prepared {
  Aligned memory;
  PreparedRows rows;
  Prepared(Stream& s, const float* x, int64_t T, int64_t K, Format format)
      : memory(prepared_row_bytes(K, activations_of(format)) * static_cast<size_t>(T)),
        rows{memory.data, T, K, activations_of(format)} {
    prepare_rows(s, rows, Tensor(const_cast<float*>(x), {T, K}));
  }
};

/// x as the products with a format see it: the rule of ops/packed.h once more.
std::vector<double> prepared_values(const std::vector<float>& x, Format format) {
  std::vector<double> out(x.begin(), x.end());
  if (activations_of(format) == Activations::floats) return out;
  for (size_t b = 0; b < x.size(); b += 32) {
    float most = 0;
    for (size_t i = b; i < b + 32; ++i) most = std::max(most, std::abs(x[i]));
    for (size_t i = b; i < b + 32; ++i)
      out[i] = most > 0 ? static_cast<double>(most / 127) * std::nearbyint(x[i] * (127 / most)) : 0;
  }
  return out;
}

/// One product alone.
void multiply(Stream& s, const Tensor& y, const PreparedRows& x, const PackedMatrix& w, Out out = Out::set) {
  const PackedProduct product{y, x, w, out};
  packed_linear(s, {&product, 1});
}

class PackedFormats : public testing::TestWithParam<Format> {};

TEST_P(PackedFormats, EqualsTheSumOfDequantisedProducts) {
  Stream s(2);
  for (const auto& [N, K] : {std::pair<int64_t, int64_t>{1, 256}, {37, 512}, {64, 1024}}) {
    const int64_t T = 5;
    const Blocks w(GetParam(), N, K, 1);
    std::vector<float> x = normals(T * K, 2);
    std::fill_n(x.begin(), 64, 0.0f);  // blocks of zeros
    const std::vector<double> prepared = prepared_values(x, GetParam());
    std::vector<float> y(static_cast<size_t>(T * N), std::nanf(""));
    multiply(s, Tensor(y.data(), {T, N}), Prepared(s, x.data(), T, K, GetParam()).rows, Packed(s, w.matrix).matrix);
    for (int64_t t = 0; t < T; ++t)
      for (int64_t n = 0; n < N; ++n) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < K; ++k) {
          const double term = prepared[static_cast<size_t>(t * K + k)] * w.values[static_cast<size_t>(n * K + k)];
          sum += term, size += std::abs(term);
        }
        ASSERT_NEAR(y[static_cast<size_t>(t * N + n)], sum, 2e-6 * size) << N << " " << K << ": " << t << " " << n;
      }
  }
}

TEST(PackedLinear, PlainFormatsOfAnyWidth) {
  Stream s(2);
  for (const Format format : {Format::f32, Format::bf16, Format::fp8_128})
    for (const int64_t K : {1, 2, 3, 5, 130, 257}) {
      const int64_t T = 11, N = 21;
      const Blocks w(format, N, K, 1);
      const std::vector<float> x = normals(T * K, 2);
      std::vector<float> y(static_cast<size_t>(T * N), std::nanf(""));
      multiply(s, Tensor(y.data(), {T, N}), Prepared(s, x.data(), T, K, format).rows, Packed(s, w.matrix).matrix);
      for (int64_t t = 0; t < T; ++t)
        for (int64_t n = 0; n < N; ++n) {
          double sum = 0, size = 0;
          for (int64_t k = 0; k < K; ++k) {
            const double term =
                static_cast<double>(x[static_cast<size_t>(t * K + k)]) * w.values[static_cast<size_t>(n * K + k)];
            sum += term, size += std::abs(term);
          }
          ASSERT_NEAR(y[static_cast<size_t>(t * N + n)], sum, 2e-6 * size) << K << ": " << t << " " << n;
        }
    }
}

TEST_P(PackedFormats, AddsAndKeepsToItsColumns) {
  Stream s(1);
  constexpr int64_t T = 6, N = 21, K = 256;
  const Blocks w(GetParam(), N, K, 3);
  const std::vector<float> x = normals(T * K, 4);
  const Packed packed(s, w.matrix);
  const Prepared prepared(s, x.data(), T, K, GetParam());
  std::vector<float> product(T * N), y(T * 30, 1.0f);
  multiply(s, Tensor(product.data(), {T, N}), prepared.rows, packed.matrix);
  multiply(s, Tensor(y.data(), {T, 30}).slice_cols(4, N), prepared.rows, packed.matrix, Out::add);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t j = 0; j < 30; ++j)
      EXPECT_EQ(y[static_cast<size_t>(t * 30 + j)],
                j >= 4 && j < 4 + N ? 1.0f + product[static_cast<size_t>(t * N + j - 4)] : 1.0f);
}

TEST_P(PackedFormats, FirstRowsOfAMatrix) {
  Stream s(2);
  constexpr int64_t T = 3, N = 300, K = 512;
  const Blocks w(GetParam(), N, K, 3);
  const std::vector<float> x = normals(T * K, 4);
  const Packed packed(s, w.matrix);
  const Prepared prepared(s, x.data(), T, K, GetParam());
  std::vector<float> whole(T * N);
  multiply(s, Tensor(whole.data(), {T, N}), prepared.rows, packed.matrix);
  for (const int64_t first : {1, 21, 128, 299}) {
    std::vector<float> y(static_cast<size_t>(T * first));
    multiply(s, Tensor(y.data(), {T, first}), prepared.rows, packed.matrix);
    for (int64_t t = 0; t < T; ++t)
      EXPECT_EQ(std::memcmp(y.data() + t * first, whole.data() + t * N, static_cast<size_t>(first) * sizeof(float)), 0);
  }
}

TEST_P(PackedFormats, ValuesThatAreNotFiniteAreNotHidden) {
  Stream s(1);
  const Blocks w(GetParam(), 3, 512, 1);
  for (const float bad : {std::nanf(""), HUGE_VALF}) {
    std::vector<float> x = normals(512, 2), y(3);
    x[300] = bad;
    multiply(s, Tensor(y.data(), {1, 3}), Prepared(s, x.data(), 1, 512, GetParam()).rows, Packed(s, w.matrix).matrix);
    for (const float v : y) EXPECT_FALSE(std::isfinite(v));
  }
}

TEST_P(PackedFormats, RowsDoNotDependOnEachOtherOrOnThreads) {
  constexpr int64_t N = 75, K = 512, kMost = 512;
  const Blocks w(GetParam(), N, K, 3);
  const std::vector<float> x = normals(kMost * K, 4);
  Stream one(1);
  const Packed packed(one, w.matrix);
  std::vector<float> all(kMost * N);
  multiply(one, Tensor(all.data(), {kMost, N}), Prepared(one, x.data(), kMost, K, GetParam()).rows, packed.matrix);
  for (const int threads : {1, 2, 5}) {
    Stream s(threads);
    for (const int64_t T : {1, 2, 3, 8, 33, 512})
      for (const int64_t first : {int64_t{0}, (kMost - T) / 2}) {
        std::vector<float> y(static_cast<size_t>(T * N), std::nanf(""));
        multiply(s, Tensor(y.data(), {T, N}), Prepared(s, x.data() + first * K, T, K, GetParam()).rows, packed.matrix);
        ASSERT_EQ(std::memcmp(y.data(), all.data() + first * N, y.size() * sizeof(float)), 0) << threads << " " << T;
      }
  }
}

TEST_P(PackedFormats, SeveralProductsAtOnceAreSingleProducts) {
  constexpr int64_t K = 256;
  const std::vector<int64_t> rows = {3, 0, 9, 1}, outs = {40, 8, 17, 640};
  Stream s(2);
  const std::vector<float> x = normals(13 * K, 5);
  const Prepared prepared(s, x.data(), 13, K, GetParam());
  std::vector<std::unique_ptr<Blocks>> weights;
  std::vector<std::unique_ptr<Packed>> packed;
  std::vector<std::vector<float>> y, alone;
  std::vector<PackedProduct> products;
  int64_t begin = 0;
  for (size_t e = 0; e < rows.size(); begin += rows[e++]) {
    weights.push_back(std::make_unique<Blocks>(GetParam(), outs[e], K, 10 + e));
    packed.push_back(std::make_unique<Packed>(s, weights.back()->matrix));
    y.emplace_back(static_cast<size_t>(rows[e] * outs[e]), 1.0f);
    alone.push_back(y.back());
    products.push_back({Tensor(y.back().data(), {rows[e], outs[e]}), prepared.rows.slice(begin, rows[e]),
                        packed.back()->matrix, e == 2 ? Out::add : Out::set});
    PackedProduct single = products.back();
    single.y.data = alone.back().data();
    packed_linear(s, {&single, 1});
  }
  packed_linear(s, products);
  EXPECT_EQ(alone, y);
  EXPECT_NE(y[3], std::vector<float>(y[3].size(), 1.0f));
}

INSTANTIATE_TEST_SUITE_P(Formats, PackedFormats, testing::ValuesIn(kFormats),
                         [](const auto& test) { return std::string(format_name(test.param)); });

}  // namespace
}  // namespace sluice::test
