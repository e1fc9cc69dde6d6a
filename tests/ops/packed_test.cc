// Products with packed weights: values against sums in double of the rounded activations and the dequantised weights,
// and the same bits for every number of rows, threads and neighbours.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "base/config.h"
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
  Bytes bytes;
  std::byte* data;
  explicit Aligned(size_t size) : bytes(size + 63, std::byte{0xff}) {
    data = bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64;
  }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
};

using Floats = SharedVector<float>;

Floats normals(int64_t n, uint64_t seed) {
  Rng rng(seed);
  Floats v(static_cast<size_t>(n));
  for (float& x : v) x = static_cast<float>(rng.normal());
  return v;
}

/// A quantised matrix in file order and its exact values.
struct Blocks {
  SharedVector<uint8_t> bytes;
  Floats values, scales;
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
      : memory(packed_bytes(w.format, w.rows, w.cols, s.device())),
        matrix{memory.data, packed_format(w.format, s.device()), w.rows, w.cols} {
    pack_matrix(s, matrix, w);
  }
};

struct Prepared {
  Aligned memory;
  PreparedRows rows;
  Prepared(Stream& s, const float* x, int64_t T, int64_t K, Format format)
      : memory(prepared_row_bytes(K, activations_of(format, s.device())) * static_cast<size_t>(T)),
        rows{memory.data, T, K, activations_of(format, s.device())} {
    prepare_rows(s, rows, Tensor(const_cast<float*>(x), {T, K}));
  }
};

std::vector<double> as_bf16(const Floats& x) {
  std::vector<double> out;
  for (const float v : x) out.push_back(static_cast<double>(static_cast<float>(bf16(v))));
  return out;
}

/// x as the products with a format see it: the rule of ops/packed.h once more.
std::vector<double> prepared_values(const Floats& x, Format format, const Device& device) {
  const Activations kind = activations_of(format, device);
  if (kind == Activations::halves) return as_bf16(x);
  std::vector<double> out(x.begin(), x.end());
  if (kind == Activations::floats) return out;
  for (size_t b = 0; b < x.size(); b += 32) {
    float most = 0;
    for (size_t i = b; i < b + 32; ++i) most = std::max(most, std::abs(x[i]));
    for (size_t i = b; i < b + 32; ++i)
      out[i] = most > 0 ? static_cast<double>(most / 127) * std::nearbyint(x[i] * (127 / most)) : 0;
  }
  return out;
}

/// The same of the weights.
std::vector<double> packed_values(const Blocks& w, const Device& device) {
  if (packed_format(w.matrix.format, device) != w.matrix.format) return as_bf16(w.values);
  return {w.values.begin(), w.values.end()};
}

/// One product alone, finished.
void multiply(Stream& s, const Tensor& y, const PreparedRows& x, const PackedMatrix& w, Out out = Out::set) {
  const PackedProduct product{y, x, w, out};
  packed_linear(s, {&product, 1});
  s.synchronize();
}

/// Of the sum of the terms' magnitudes.
double sum_tolerance(const Stream& s) { return s.is_cuda() ? kTolTensorCores : 2e-6; }

struct Target {
  Device::Kind device;
  Format format;
};

class PackedFormats : public testing::TestWithParam<Target> {
 protected:
  void SetUp() override {
    if (GetParam().device == Device::Kind::cuda && !has_gpu()) GTEST_SKIP() << "no GPU";
    tested_device() = GetParam().device;
  }
  void TearDown() override { tested_device() = Device::Kind::cpu; }
  Format format() const { return GetParam().format; }
};

Stream& any_stream() { return *tested_streams().back(); }

TEST_P(PackedFormats, EqualsTheSumOfDequantisedProducts) {
  Stream& s = any_stream();
  for (const auto& [N, K] : {std::pair<int64_t, int64_t>{1, 256}, {37, 512}, {64, 1024}}) {
    const int64_t T = 5;
    const Blocks w(format(), N, K, 1);
    Floats x = normals(T * K, 2);
    std::fill_n(x.begin(), 64, 0.0f);  // blocks of zeros
    const std::vector<double> prepared = prepared_values(x, format(), s.device()),
                              values = packed_values(w, s.device());
    Floats y(static_cast<size_t>(T * N), std::nanf(""));
    multiply(s, Tensor(y.data(), {T, N}), Prepared(s, x.data(), T, K, format()).rows, Packed(s, w.matrix).matrix);
    for (int64_t t = 0; t < T; ++t)
      for (int64_t n = 0; n < N; ++n) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < K; ++k) {
          const double term = prepared[static_cast<size_t>(t * K + k)] * values[static_cast<size_t>(n * K + k)];
          sum += term, size += std::abs(term);
        }
        ASSERT_NEAR(y[static_cast<size_t>(t * N + n)], sum, sum_tolerance(s) * size)
            << N << " " << K << ": " << t << " " << n;
      }
  }
}

TEST_P(FixedOpTest, PackedPlainFormatsOfAnyWidth) {
  Stream& s = any_stream();
  for (const Format format : {Format::f32, Format::bf16, Format::fp8_128})
    for (const int64_t K : {1, 2, 3, 5, 130, 257}) {
      const int64_t T = 11, N = 21;
      const Blocks w(format, N, K, 1);
      const Floats x = normals(T * K, 2);
      const std::vector<double> prepared = prepared_values(x, format, s.device());
      Floats y(static_cast<size_t>(T * N), std::nanf(""));
      multiply(s, Tensor(y.data(), {T, N}), Prepared(s, x.data(), T, K, format).rows, Packed(s, w.matrix).matrix);
      for (int64_t t = 0; t < T; ++t)
        for (int64_t n = 0; n < N; ++n) {
          double sum = 0, size = 0;
          for (int64_t k = 0; k < K; ++k) {
            const double term = prepared[static_cast<size_t>(t * K + k)] *
                                static_cast<double>(w.values[static_cast<size_t>(n * K + k)]);
            sum += term, size += std::abs(term);
          }
          ASSERT_NEAR(y[static_cast<size_t>(t * N + n)], sum, sum_tolerance(s) * size) << K << ": " << t << " " << n;
        }
    }
}

/// A bf16 matrix of 2 x 64 rows whose groups differ in what they can share: the first half has few weights far from
/// the others (tiny, huge, zero, negative zero, subnormal), the second half has any exponent.
struct MixedBf16 {
  static constexpr int64_t kRows = 128, kCols = 264;
  std::vector<uint16_t> bits;
  Matrix matrix;
  MixedBf16() : bits(kRows * kCols) {
    Rng rng(7);
    for (size_t i = 0; i < bits.size(); ++i) {
      float v = static_cast<float>(rng.normal());
      if (i % 1000 == 7) v = 1e-30f * v;
      if (i % 1000 == 11) v = 1e20f;
      if (i % 1000 == 13) v = 0;
      if (i % 1000 == 17) v = -0.0f;
      if (i % 1000 == 19) v = 1e-39f;
      if (i >= bits.size() / 2) v = std::ldexp(v, static_cast<int>(rng.below(120)) - 60);
      bits[i] = bf16(v).bits;
    }
    matrix.data = bits.data();
    matrix.format = Format::bf16;
    matrix.rows = kRows;
    matrix.cols = kCols;
  }
  double at(int64_t n, int64_t k) const {
    bf16 v;
    v.bits = bits[static_cast<size_t>(n * kCols + k)];
    return static_cast<double>(static_cast<float>(v));
  }
};

TEST(PackedBf16, IsShorterWhereExponentsAreAlike) {
  Stream s(2);
  MixedBf16 w;
  const Packed all(s, w.matrix);
  w.matrix.rows /= 2;
  const Packed alike(s, w.matrix);
  const auto share = [](const Packed& p) {
    return packed_read_bytes(p.matrix) / static_cast<double>(packed_bytes(Format::bf16, p.matrix.rows, p.matrix.cols));
  };
  EXPECT_GT(share(alike), 0.75);
  EXPECT_LT(share(alike), 0.83);
  EXPECT_NEAR(share(all), (share(alike) + 1) / 2, 1e-6);
}

TEST(PackedBf16, HasAllValuesInBothForms) {
  Stream s(2);
  const MixedBf16 w;
  constexpr int64_t T = 13, N = MixedBf16::kRows, K = MixedBf16::kCols;
  const Floats x = normals(T * K, 2);
  const Packed packed(s, w.matrix);
  Floats y(T * N, std::nanf(""));
  multiply(s, Tensor(y.data(), {T, N}), Prepared(s, x.data(), T, K, Format::bf16).rows, packed.matrix);
  for (int64_t t = 0; t < T; ++t) {
    Floats alone(N, std::nanf(""));
    multiply(s, Tensor(alone.data(), {1, N}), Prepared(s, x.data() + t * K, 1, K, Format::bf16).rows, packed.matrix);
    for (int64_t n = 0; n < N; ++n) {
      double sum = 0, size = 0;
      for (int64_t k = 0; k < K; ++k) {
        const double term = static_cast<double>(x[static_cast<size_t>(t * K + k)]) * w.at(n, k);
        sum += term, size += std::abs(term);
      }
      ASSERT_NEAR(y[static_cast<size_t>(t * N + n)], sum, 2e-6 * size) << t << " " << n;
      ASSERT_EQ(alone[static_cast<size_t>(n)], y[static_cast<size_t>(t * N + n)]) << t << " " << n;
    }
  }
}

/// One weight at a time, so that none hides behind larger ones.
TEST(PackedBf16, KeepsEveryWeight) {
  Stream s(1);
  const MixedBf16 w;
  constexpr int64_t N = MixedBf16::kRows, K = MixedBf16::kCols;
  const Packed packed(s, w.matrix);
  for (int64_t k = 0; k < K; ++k) {
    Floats x(K), y(N, std::nanf(""));
    x[static_cast<size_t>(k)] = 1;
    multiply(s, Tensor(y.data(), {1, N}), Prepared(s, x.data(), 1, K, Format::bf16).rows, packed.matrix);
    for (int64_t n = 0; n < N; ++n)
      ASSERT_EQ(static_cast<double>(y[static_cast<size_t>(n)]), w.at(n, k)) << n << " " << k;
  }
}

TEST_P(PackedFormats, AddsAndKeepsToItsColumns) {
  Stream& s = any_stream();
  constexpr int64_t T = 6, N = 21, K = 256;
  const Blocks w(format(), N, K, 3);
  const Floats x = normals(T * K, 4);
  const Packed packed(s, w.matrix);
  const Prepared prepared(s, x.data(), T, K, format());
  Floats product(T * N), y(T * 30, 1.0f);
  multiply(s, Tensor(product.data(), {T, N}), prepared.rows, packed.matrix);
  multiply(s, Tensor(y.data(), {T, 30}).slice_cols(4, N), prepared.rows, packed.matrix, Out::add);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t j = 0; j < 30; ++j)
      EXPECT_EQ(y[static_cast<size_t>(t * 30 + j)],
                j >= 4 && j < 4 + N ? 1.0f + product[static_cast<size_t>(t * N + j - 4)] : 1.0f);
}

TEST_P(PackedFormats, FirstRowsOfAMatrix) {
  Stream& s = any_stream();
  constexpr int64_t T = 3, N = 300, K = 512;
  const Blocks w(format(), N, K, 3);
  const Floats x = normals(T * K, 4);
  const Packed packed(s, w.matrix);
  const Prepared prepared(s, x.data(), T, K, format());
  Floats whole(T * N);
  multiply(s, Tensor(whole.data(), {T, N}), prepared.rows, packed.matrix);
  for (const int64_t first : {1, 21, 128, 299}) {
    Floats y(static_cast<size_t>(T * first));
    multiply(s, Tensor(y.data(), {T, first}), prepared.rows, packed.matrix);
    for (int64_t t = 0; t < T; ++t)
      EXPECT_EQ(std::memcmp(y.data() + t * first, whole.data() + t * N, static_cast<size_t>(first) * sizeof(float)), 0);
  }
}

TEST_P(PackedFormats, ValuesThatAreNotFiniteAreNotHidden) {
  Stream& s = any_stream();
  const Blocks w(format(), 3, 512, 1);
  for (const float bad : {std::nanf(""), HUGE_VALF}) {
    Floats x = normals(512, 2), y(3);
    x[300] = bad;
    multiply(s, Tensor(y.data(), {1, 3}), Prepared(s, x.data(), 1, 512, format()).rows, Packed(s, w.matrix).matrix);
    for (const float v : y) EXPECT_FALSE(std::isfinite(v));
  }
}

/// On a GPU its neighbours of 128 rows may be NaN as well.
TEST_P(FixedOpTest, PackedFp8CodesOfNaNStayNaN) {
  Stream& s = any_stream();
  constexpr int64_t N = 300, K = 384;
  for (const uint8_t code : {uint8_t{0x7f}, uint8_t{0xff}}) {
    Blocks w(Format::fp8_128, N, K, 1);
    w.bytes[static_cast<size_t>(200 * K + 130)] = code;
    const Floats x = normals(K, 2);
    Floats y(N);
    multiply(s, Tensor(y.data(), {1, N}), Prepared(s, x.data(), 1, K, Format::fp8_128).rows,
             Packed(s, w.matrix).matrix);
    EXPECT_TRUE(std::isnan(y[200]));
    for (int64_t n = 0; n < N; ++n) EXPECT_TRUE((n >= 128 && n < 256) || std::isfinite(y[static_cast<size_t>(n)])) << n;
  }
}

TEST_P(PackedFormats, RowsDoNotDependOnEachOtherOrOnThreads) {
  constexpr int64_t N = 75, K = 512, kMost = 512;
  const Blocks w(format(), N, K, 3);
  const Floats x = normals(kMost * K, 4);
  Stream& one = *tested_streams().front();
  const Packed packed(one, w.matrix);
  Floats all(kMost * N);
  multiply(one, Tensor(all.data(), {kMost, N}), Prepared(one, x.data(), kMost, K, format()).rows, packed.matrix);
  for (Stream* s : tested_streams())
    for (const int64_t T : {1, 2, 3, 8, 12, 30, 33, 512})
      for (const int64_t first : {int64_t{0}, (kMost - T) / 2}) {
        Floats y(static_cast<size_t>(T * N), std::nanf(""));
        multiply(*s, Tensor(y.data(), {T, N}), Prepared(*s, x.data() + first * K, T, K, format()).rows, packed.matrix);
        ASSERT_EQ(std::memcmp(y.data(), all.data() + first * N, y.size() * sizeof(float)), 0)
            << s->threads() << " " << T;
      }
}

TEST_P(PackedFormats, SeveralProductsAtOnceAreSingleProducts) {
  constexpr int64_t K = 256;
  const std::vector<int64_t> rows = {3, 0, 9, 1}, outs = {40, 8, 17, 640};
  Stream& s = any_stream();
  const Floats x = normals(13 * K, 5);
  const Prepared prepared(s, x.data(), 13, K, format());
  std::vector<std::unique_ptr<Blocks>> weights;
  std::vector<std::unique_ptr<Packed>> packed;
  std::vector<Floats> y, alone;
  std::vector<PackedProduct> products;
  int64_t begin = 0;
  for (size_t e = 0; e < rows.size(); begin += rows[e++]) {
    weights.push_back(std::make_unique<Blocks>(format(), outs[e], K, 10 + e));
    packed.push_back(std::make_unique<Packed>(s, weights.back()->matrix));
    y.emplace_back(static_cast<size_t>(rows[e] * outs[e]), 1.0f);
    alone.push_back(y.back());
    products.push_back({Tensor(y.back().data(), {rows[e], outs[e]}), prepared.rows.slice(begin, rows[e]),
                        packed.back()->matrix, e == 2 ? Out::add : Out::set});
    PackedProduct single = products.back();
    single.y.data = alone.back().data();
    packed_linear(s, {&single, 1});
    s.synchronize();
  }
  packed_linear(s, products);
  s.synchronize();
  EXPECT_EQ(alone, y);
  EXPECT_NE(y[3], Floats(y[3].size(), 1.0f));
}

/// Experts' matrices, equally far apart.
struct PackedExperts {
  std::vector<std::unique_ptr<Blocks>> weights;
  std::unique_ptr<Aligned> memory;
  PackedBank bank;
  PackedExperts(Stream& s, Format format, int64_t E, int64_t N, int64_t K, uint64_t seed) {
    const size_t stride = (packed_bytes(format, N, K, s.device()) + 127) / 64 * 64;
    memory = std::make_unique<Aligned>(static_cast<size_t>(E) * stride);
    bank = {{memory->data, packed_format(format, s.device()), N, K}, static_cast<int64_t>(stride), E};
    for (int64_t e = 0; e < E; ++e) {
      weights.push_back(std::make_unique<Blocks>(format, N, K, seed + static_cast<uint64_t>(e)));
      pack_matrix(s, matrix(e), weights.back()->matrix);
    }
  }
  PackedMatrix matrix(int64_t e) const {
    PackedMatrix m = bank.first;
    m.data += e * bank.stride;
    return m;
  }
};

TEST_P(PackedFormats, RowsOfExpertsAreThoseOfSingleProducts) {
  if (GetParam().device == Device::Kind::cpu) GTEST_SKIP() << "for GPUs alone";
  constexpr int64_t E = 40, K = 256, N = 40;
  Stream& s = any_stream();
  const PackedExperts first(s, format(), E, N, K, 1), second(s, format(), E, N + 8, K, 100);
  for (const int64_t most : {1, 3, 11, 40, 150}) {  // from few rows to many
    SharedVector<int32_t> offsets = {0};
    Rng rng(static_cast<uint64_t>(most));
    for (int64_t e = 0; e < E; ++e)
      offsets.push_back(offsets.back() + static_cast<int32_t>(rng.below(static_cast<uint64_t>(most + 1))));
    const int64_t R = offsets.back() + 5;  // nobody's rows
    const Floats x = normals(R * K, 6);
    const Prepared prepared(s, x.data(), R, K, format());
    Floats y(static_cast<size_t>(R * N), 7.0f), z(static_cast<size_t>(R * (N + 8)), 7.0f), y1 = y, z1 = z;
    const PackedExpertProduct products[] = {{Tensor(y.data(), {R, N}), prepared.rows, first.bank},
                                            {Tensor(z.data(), {R, N + 8}), prepared.rows, second.bank}};
    packed_expert_linear(s, products, Tensor(offsets.data(), DType::i32, {E + 1}));
    for (int64_t e = 0; e < E; ++e) {
      const int64_t begin = offsets[static_cast<size_t>(e)], count = offsets[static_cast<size_t>(e) + 1] - begin;
      if (count == 0) continue;
      const PreparedRows part = prepared.rows.slice(begin, count);
      multiply(s, Tensor(y1.data(), {R, N}).slice_rows(begin, count), part, first.matrix(e));
      multiply(s, Tensor(z1.data(), {R, N + 8}).slice_rows(begin, count), part, second.matrix(e));
    }
    EXPECT_EQ(y, y1) << most;
    EXPECT_EQ(z, z1) << most;
  }
}

std::vector<Target> targets() {
  std::vector<Target> list;
  for (const Device::Kind device : {Device::Kind::cpu, Device::Kind::cuda})
    for (const Format format : kFormats)
      if (kHasCuda || device == Device::Kind::cpu) list.push_back({device, format});
  return list;
}

INSTANTIATE_TEST_SUITE_P(Formats, PackedFormats, testing::ValuesIn(targets()), [](const auto& test) {
  return std::string(test.param.device == Device::Kind::cpu ? "cpu_" : "cuda_") + format_name(test.param.format);
});

}  // namespace
}  // namespace sluice::test
