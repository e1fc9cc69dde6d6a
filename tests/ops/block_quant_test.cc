#include "ops/block_quant.h"

#include <algorithm>
#include <cmath>

#include "block_reference.h"
#include "op_test.h"

namespace sluice::test {
namespace {

using Bytes = std::vector<uint8_t>;
using Floats = std::vector<float>;

constexpr Format kBlockFormats[] = {Format::q4_0, Format::q4_1, Format::q5_0, Format::q5_1, Format::q8_0,  Format::q2_k,
                                    Format::q3_k, Format::q4_k, Format::q5_k, Format::q6_k, Format::iq4_nl};
constexpr Format kAllFormats[] = {Format::f32,  Format::f16,  Format::bf16, Format::q4_0,  Format::q4_1,
                                  Format::q5_0, Format::q5_1, Format::q8_0, Format::q2_k,  Format::q3_k,
                                  Format::q4_k, Format::q5_k, Format::q6_k, Format::iq4_nl};

Floats dequantized(Format format, const Bytes& bytes) {
  const BlockShape shape = block_shape(format);
  Floats out(bytes.size() / static_cast<size_t>(shape.bytes) * static_cast<size_t>(shape.elements), -1e30f);
  dequantize_row(bytes.data(), format, static_cast<int64_t>(out.size()), out.data());
  return out;
}

Bytes quantized(Format format, const Floats& x, const Floats& importance = {}) {
  Bytes bytes(static_cast<size_t>(row_bytes(format, static_cast<int64_t>(x.size()))), 0xff);
  quantize_row(x.data(), format, static_cast<int64_t>(x.size()), importance.empty() ? nullptr : importance.data(),
               bytes.data());
  return bytes;
}

Floats round_trip(Format format, const Floats& x, const Floats& importance = {}) {
  return dequantized(format, quantized(format, x, importance));
}

Floats normals(int64_t n, uint64_t seed, double scale = 1) {
  Rng rng(seed);
  Floats v(static_cast<size_t>(n));
  for (float& x : v) x = static_cast<float>(scale * rng.normal());
  return v;
}

/// Root of sum w (x - y)^2 / sum w x^2.
double relative_error(const Floats& x, const Floats& y, const Floats& w = {}) {
  double error = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double weight = w.empty() ? 1 : w[i], d = static_cast<double>(x[i]) - y[i];
    error += weight * d * d;
    size += weight * x[i] * x[i];
  }
  return std::sqrt(error / size);
}

/// One block by hand: bytes that are not 0, and elements worked out from the definition.
struct ByHand {
  Format format;
  std::vector<std::pair<size_t, uint8_t>> bytes;
  std::vector<std::pair<size_t, float>> values;
};

// Halves: 1 is 00 3c, 2 is 00 40, 0.5 is 00 38, -1 is 00 bc (low byte first).
const ByHand kByHand[] = {
    {Format::f16, {{0, 0x01}, {1, 0xc5}}, {{0, -(4 + 0x101 / 256.f)}}},
    {Format::bf16, {{0, 0x81}, {1, 0xbf}}, {{0, -(1 + 1 / 128.f)}}},
    {Format::f32, {{2, 0x20}, {3, 0x41}}, {{0, 10}}},
    // 2 (n - 8): byte 0 holds elements 0 and 16.
    {Format::q4_0, {{1, 0x40}, {2, 0x1f}, {17, 0x80}}, {{0, 14}, {16, -14}, {15, -16}, {31, 0}, {1, -16}}},
    // n / 2 - 1.
    {Format::q4_1, {{1, 0x38}, {3, 0xbc}, {4, 0x1f}, {19, 0x80}}, {{0, 6.5f}, {16, -.5f}, {15, -1}, {31, 3}, {1, -1}}},
    // 2 (n - 16): bit 0 and 31 of the word after the scale are bit 4 of elements 0 and 31.
    {Format::q5_0,
     {{1, 0x40}, {2, 0x01}, {5, 0x80}, {6, 0x1f}, {21, 0x80}},
     {{0, 30}, {16, -30}, {15, -32}, {31, 16}, {1, -32}}},
    // n / 2 - 1: bits 1 and 16.
    {Format::q5_1,
     {{1, 0x38}, {3, 0xbc}, {4, 0x02}, {6, 0x01}, {8, 0x1f}, {9, 0x03}},
     {{0, 6.5f}, {16, 7.5f}, {1, 8.5f}, {17, -1}, {31, -1}}},
    {Format::q8_0, {{1, 0x40}, {2, 0x7f}, {3, 0x80}, {33, 0xff}}, {{0, 254}, {1, -256}, {31, -2}, {2, 0}}},
    {Format::iq4_nl, {{1, 0x40}, {2, 0x80}, {3, 0xf7}}, {{0, -254}, {16, 2}, {1, -20}, {17, 226}, {2, -254}}},
    // 2 s n - t: sub-block 0 has s 3 and t 1; 5 (elements 80 to 95, byte 16 of the codes, bits 4 and 5) s 15 and t 2;
    // 14 (elements 224 to 239, byte 32, bits 6 and 7) s 1, t 0.
    {Format::q2_k,
     {{0, 0x13}, {5, 0x2f}, {14, 0x01}, {16, 0x02}, {32, 0x30}, {48, 0xc0}, {81, 0x40}, {83, 0x3c}},
     {{0, 11}, {1, -1}, {16, 0}, {80, 88}, {81, -2}, {224, 6}, {225, 0}, {255, 0}}},
    // 2 (s - 32) (n - 4): all scales are 0 - 32 but those of sub-block 0 (33: low 1 of byte 96, high 2 of byte 104) and
    // 13 (elements 208 to 223; 31: high half of byte 101 is 15, bits 6 and 7 of byte 105 are 1). Element 0 has code 3
    // and no bit 2: -1; element 208 (byte 80 - 32 = 48, bits 4 and 5, bit 6 of byte 16) has 2 + 4 - 4 = 2.
    {Format::q3_k,
     {{96, 0x01}, {104, 0x02}, {101, 0xf0}, {105, 0x40}, {32, 0x03}, {80, 0x20}, {16, 0x40}, {109, 0x40}},
     {{0, -2}, {1, -8}, {208, -4}, {209, 8}, {16, 256}, {255, 256}}},
    // 2 s n - t: sub-block 0 s 63 (and the top bits of s 4: 2), t 5; sub-block 4 s 0x21, t 0x13; element 0 code 15,
    // element 32 code 1 in the same byte (sub-block 1: s 1, t 0), element 128 (byte 64) code 2.
    {Format::q4_k,
     {{1, 0x40}, {3, 0x3c}, {4, 0xbf}, {5, 0x01}, {8, 0x45}, {12, 0x31}, {16, 0x1f}, {80, 0x02}},
     {{0, 1885}, {1, -5}, {32, 2}, {33, 0}, {128, 113}, {129, -19}, {255, 0}}},
    // The same, with bit 4 of elements 0 and 128 (bits 0 and 4 of byte 16).
    {Format::q5_k,
     {{1, 0x40}, {3, 0x3c}, {4, 0xbf}, {5, 0x01}, {8, 0x45}, {12, 0x31}, {16, 0x11}, {48, 0x1f}, {112, 0x02}},
     {{0, 3901}, {1, -5}, {32, 2}, {33, 0}, {128, 1169}, {129, -19}, {255, 0}}},
    // 2 s (n - 32): s 0 is -1, s 14 (elements 224 to 239) 127, s 3 (elements 48 to 63) 2. Element 0: 15 + 3 * 16;
    // element 48 (low half of byte 48, bits 2 and 3 of byte 128 + 16): 1 + 2 * 16; element 224 (high half of byte 96,
    // bits 6 and 7 of byte 160): 1.
    {Format::q6_k,
     {{0, 0x0f}, {48, 0x01}, {96, 0x10}, {128, 0x03}, {144, 0x08}, {192, 0xff}, {195, 0x02}, {206, 0x7f}, {209, 0x40}},
     {{0, -62}, {1, 64}, {48, 4}, {49, -128}, {224, -7874}, {225, -8128}, {16, 0}, {64, 0}}},
};

TEST(BlockDequant, BlocksByHand) {
  for (const ByHand& c : kByHand) {
    Bytes bytes(static_cast<size_t>(block_shape(c.format).bytes));
    for (const auto& [at, byte] : c.bytes) bytes[at] = byte;
    const Floats y = dequantized(c.format, bytes);
    for (const auto& [i, value] : c.values) EXPECT_EQ(y[i], value) << format_name(c.format) << " element " << i;
  }
}

TEST(BlockFormats, NamesAreTheirOwn) {
  for (const Format format : kAllFormats) EXPECT_EQ(parse_format(format_name(format)), format);
  EXPECT_EQ(parse_format(format_name(Format::fp8_128)), Format::fp8_128);
  EXPECT_EQ(parse_format("q9_9"), std::nullopt);
  EXPECT_EQ(parse_format(""), std::nullopt);
}

class AllFormats : public testing::TestWithParam<Format> {};
class BlockFormats : public testing::TestWithParam<Format> {};

TEST_P(AllFormats, DequantizeIsTheDefinition) {
  const BlockShape shape = block_shape(GetParam());
  Rng rng(1);
  for (const int64_t blocks : {0, 1, 3, 500}) {
    Bytes bytes(static_cast<size_t>(blocks * shape.bytes));
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(rng.next());  // scales infinite and NaN among them
    const Floats y = dequantized(GetParam(), bytes);
    for (int64_t i = 0; i < blocks * shape.elements; ++i) {
      const float expected = static_cast<float>(ref::block_value(
          GetParam(), bytes.data() + i / shape.elements * shape.bytes, static_cast<int>(i % shape.elements)));
      const float got = y[static_cast<size_t>(i)];
      ASSERT_TRUE((std::isnan(got) && std::isnan(expected)) ||
                  std::bit_cast<uint32_t>(got) == std::bit_cast<uint32_t>(expected))
          << "element " << i << ": " << got << " for " << expected;
    }
  }
}

TEST_P(AllFormats, MatricesAreRowsForEveryNumberOfThreads) {
  const BlockShape shape = block_shape(GetParam());
  for (const auto& [rows, blocks] : {std::pair<int64_t, int64_t>{1, 1}, {37, 3}, {300, 2}, {0, 1}}) {
    const int64_t cols = blocks * shape.elements, stride = row_bytes(GetParam(), cols);
    Rng rng(2);
    const Host x = random_host(rng, DType::f32, rows, cols, Rows::strided);
    Floats importance(static_cast<size_t>(cols));
    for (float& v : importance) v = static_cast<float>(rng.uniform());
    for (const float* weights : {static_cast<const float*>(nullptr), static_cast<const float*>(importance.data())}) {
      Bytes expected(static_cast<size_t>(rows * stride));
      for (int64_t r = 0; r < rows; ++r)
        quantize_row(static_cast<const float*>(x.tensor().at(r)), GetParam(), cols, weights,
                     expected.data() + r * stride);
      Host y(DType::f32, rows, cols, Rows::strided);
      run({&y}, [&, &n = rows](Stream& s) {
        Bytes bytes(expected.size(), 0xff);
        const Matrix w{bytes.data(), nullptr, GetParam(), n, cols};
        quantize_blocks(s, w, x, weights);
        EXPECT_EQ(bytes, expected);
        dequantize_blocks(s, y, w);
      });
      for (int64_t r = 0; r < rows; ++r) {
        Floats row(static_cast<size_t>(cols));
        dequantize_row(expected.data() + r * stride, GetParam(), cols, row.data());
        ASSERT_EQ(std::memcmp(row.data(), y.tensor().at(r), row.size() * sizeof(float)), 0) << r;
      }
    }
  }
}

TEST_P(AllFormats, ZeroStaysZero) {
  const Floats zero(512, 0.f);
  for (const Floats& importance : {Floats{}, Floats(512, 1.f), Floats(512, 0.f)})
    for (const float v : round_trip(GetParam(), zero, importance)) EXPECT_EQ(v, 0);
}

/// Relative error (root of the mean square) of normal numbers.
double error_bound(Format format) {
  switch (format) {
    case Format::f32:
      return 0;
    case Format::f16:
      return 2.1e-4;
    case Format::bf16:
      return 1.68e-3;
    case Format::q4_0:
      return .0864;
    case Format::q4_1:
      return .0784;
    case Format::q5_0:
      return .0428;
    case Format::q5_1:
      return .038;
    case Format::q8_0:
      return .00538;
    case Format::q2_k:
      return .2685;
    case Format::q3_k:
      return .1451;
    case Format::q4_k:
      return .0708;
    case Format::q5_k:
      return .0349;
    case Format::q6_k:
      return .01732;
    case Format::iq4_nl:
      return .0755;
    case Format::fp8_128:
      break;
  }
  return -1;
}

TEST_P(AllFormats, ErrorOfNormalNumbers) {
  for (const double scale : {1., .02, 300.}) {
    const Floats x = normals(256 * 400, 3, scale);
    const double error = relative_error(x, round_trip(GetParam(), x)), bound = error_bound(GetParam());
    EXPECT_LE(error, bound) << scale;
    EXPECT_GE(error, bound * .98) << scale;  // the bound is no guess
  }
}

/// Formats that choose scales by the cost of errors, with an importance at least.
bool uses_importance(Format format) { return is_block_format(format) && format != Format::q8_0; }

TEST_P(AllFormats, ImportanceLowersTheErrorItWeighs) {
  const Floats x = normals(256 * 200, 4);
  Floats importance(x.size());
  Rng rng(5);
  for (float& v : importance) v = static_cast<float>(std::exp(2 * rng.normal()));
  const Bytes without = quantized(GetParam(), x), with = quantized(GetParam(), x, importance);
  if (!uses_importance(GetParam())) {
    EXPECT_EQ(with, without);
    return;
  }
  const Floats a = dequantized(GetParam(), without), b = dequantized(GetParam(), with);
  EXPECT_LT(relative_error(x, b, importance), .9 * relative_error(x, a, importance));
  EXPECT_LT(relative_error(x, b), 1.5 * relative_error(x, a));  // and no element is given up
}

TEST_P(AllFormats, OnlyRatiosOfImportanceCount) {
  const Floats x = normals(512, 6);
  Floats importance(x.size());
  Rng rng(7);
  for (float& v : importance) v = static_cast<float>(rng.uniform());
  const Bytes expected = quantized(GetParam(), x, importance);
  for (const float factor : {0x1p-60f, 8.f, 0x1p127f}) {
    Floats scaled = importance;
    for (float& v : scaled) v *= factor;
    EXPECT_TRUE(quantized(GetParam(), x, scaled) == expected) << factor;
  }
  // All zeros say nothing about ratios; some zeros are no reason to give an element up.
  EXPECT_LT(relative_error(x, round_trip(GetParam(), x, Floats(512, 0.f))), 1.2 * error_bound(GetParam()) + 1e-9);
  std::fill_n(importance.begin() + 64, 48, 0.f);  // a sub-block and a half, or three
  const Floats y = round_trip(GetParam(), x, importance);
  const auto part = [](const Floats& v) { return Floats(v.begin() + 64, v.begin() + 112); };
  EXPECT_LT(relative_error(part(x), part(y)), 2 * error_bound(GetParam()) + 1e-9);
}

TEST_P(BlockFormats, WhatIsNotFiniteSpoilsItsBlockOnly) {
  const int64_t size = block_shape(GetParam()).elements;
  const Floats x = normals(3 * size, 8);
  const float inf = std::numeric_limits<float>::infinity();
  for (const Floats& importance : {Floats{}, Floats(x.size(), 1.f)}) {
    const Floats good = round_trip(GetParam(), x, importance);
    for (const float bad : {std::nanf(""), -std::nanf(""), inf, -inf, 0x1.000002p28f, -1e38f})
      for (const int64_t at : {size, size + size / 2 + 1, 2 * size - 1}) {
        Floats spoilt = x;
        spoilt[static_cast<size_t>(at)] = bad;
        const Floats y = round_trip(GetParam(), spoilt, importance);
        for (int64_t i = 0; i < 3 * size; ++i) {
          const size_t k = static_cast<size_t>(i);
          ASSERT_TRUE(i / size == 1 ? std::isnan(y[k]) : y[k] == good[k]) << bad << " at " << at << ": " << i;
        }
      }
  }
}

TEST_P(BlockFormats, WhatIsTooLargeIsNotHidden) {
  const int64_t size = block_shape(GetParam()).elements;
  for (const float largest : {1e4f, 1e6f, 1e7f, 1e8f, 0x1p28f})
    for (const Floats& importance : {Floats{}, Floats(static_cast<size_t>(size), 1.f)}) {
      Floats x = normals(size, 9, largest / 10);
      x[3] = -largest;
      for (float& v : x) v = std::clamp(v, -largest, largest);
      const Floats y = round_trip(GetParam(), x, importance);
      const bool all_finite = std::all_of(y.begin(), y.end(), [](float v) { return std::isfinite(v); });
      if (all_finite) {
        EXPECT_LT(relative_error(x, y), .6) << largest;
      } else {
        EXPECT_FALSE(std::isfinite(y[3])) << largest;
      }
    }
}

TEST_P(BlockFormats, TinyNumbersStayTiny) {
  // Scales are halves, multiples of 2^-24: smaller ones become 0, and then the values do.
  for (const double scale : {1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-20, 1e-38, 1e-42})
    for (const bool with_importance : {false, true}) {
      const Floats x = normals(512, 10, scale), y = round_trip(GetParam(), x, Floats(with_importance ? 512 : 0, 1.f));
      // Formats that round and do not search may be off by half of 2^-24 times their largest code.
      double error = 0;
      for (size_t i = 0; i < x.size(); ++i) error += std::pow(static_cast<double>(x[i]) - y[i], 2) / 512;
      EXPECT_LT(std::sqrt(error), 1.02 * scale + 0x1p-25 * 10) << scale;
    }
}

TEST_P(BlockFormats, NearlyConstantBlocksKeepTheirValue) {
  for (const float value : {-3.f, 3.f})
    for (const double deviation : {0., 1e-7, 1e-6, 1e-4}) {
      Floats x = normals(512, 12, deviation);
      for (float& v : x) v += value;
      EXPECT_LT(relative_error(x, round_trip(GetParam(), x)), .01) << value << " " << deviation;
    }
}

/// Quantisation of the formats that are rounded and not searched, as ops/block_quant.h says: the codes and halves of
/// one block.
struct Rounding {
  std::vector<int> codes;
  std::vector<float> halves;
};
Rounding rounding(Format format, const float* x) {
  float low = x[0], high = x[0], peak = 0;
  for (int i = 0; i < 32; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
    if (std::abs(x[i]) > std::abs(peak)) peak = x[i];
  }
  Rounding r;
  const auto round_codes = [&](float d, auto code) {
    const float inverse = d != 0 ? 1 / d : 0;
    for (int i = 0; i < 32; ++i) r.codes.push_back(code(x[i], inverse));
    r.halves.insert(r.halves.begin(), d);
  };
  if (format == Format::q8_0) {
    round_codes(std::abs(peak) / 127, [](float v, float inverse) { return static_cast<int>(std::round(v * inverse)); });
  } else if (format == Format::q4_0 || format == Format::q5_0) {
    const int half = format == Format::q4_0 ? 8 : 16;
    round_codes(peak / static_cast<float>(-half), [&](float v, float inverse) {
      return std::min(2 * half - 1, static_cast<int>(std::floor(v * inverse + static_cast<float>(half) + .5f)));
    });
  } else {
    const int most = format == Format::q4_1 ? 15 : 31;
    r.halves = {low};
    round_codes((high - low) / static_cast<float>(most), [&](float v, float inverse) {
      return std::min(most, static_cast<int>(std::floor((v - low) * inverse + .5f)));
    });
  }
  return r;
}

TEST(BlockQuant, RoundsAsDocumented) {
  for (const Format format : {Format::q8_0, Format::q4_0, Format::q5_0, Format::q4_1, Format::q5_1})
    for (uint64_t seed = 0; seed < 2000; ++seed) {
      Floats x = normals(32, seed, std::ldexp(1.0, static_cast<int>(seed % 16) - 8));
      if (seed % 3 == 0) {  // the scale is 1, and there are ties
        const bool symmetric = format == Format::q8_0 || format == Format::q4_0 || format == Format::q5_0;
        const float least = format == Format::q4_0 ? -8 : format == Format::q5_0 ? -16 : -6;
        const float most = format == Format::q8_0 ? 127 : format == Format::q5_1 ? 25 : format == Format::q4_1 ? 9 : 0;
        for (float& v : x) v = std::clamp(std::round(v * 40) / 2, symmetric ? -7.5f : least, symmetric ? 7.5f : most);
        x[7] = format == Format::q8_0 ? most : least;
        x[20] = most;
      }
      const Bytes bytes = quantized(format, x);
      const Rounding r = rounding(format, x.data());
      for (size_t k = 0; k < r.halves.size(); ++k)
        ASSERT_EQ(ref::half(bytes.data() + 2 * k), f16_to_f32(f32_to_f16(r.halves[k]))) << format_name(format);
      // The codes, as the reference sees them in a block of scale 1 and minimum 0.
      Bytes unit = bytes;
      unit[0] = 0, unit[1] = 0x3c;
      if (r.halves.size() == 2) unit[2] = unit[3] = 0;
      const int zero = format == Format::q4_0 ? 8 : format == Format::q5_0 ? 16 : 0;
      for (int i = 0; i < 32; ++i)
        ASSERT_EQ(ref::block_value(format, unit.data(), i), r.codes[static_cast<size_t>(i)] - zero)
            << format_name(format) << " " << seed << " " << i;
    }
}

TEST(BlockQuant, Iq4TakesTheNearestValue) {
  const Floats x = normals(32 * 500, 13), y = round_trip(Format::iq4_nl, x);
  const Bytes bytes = quantized(Format::iq4_nl, x);
  for (size_t i = 0; i < x.size(); ++i) {
    Bytes block(bytes.begin() + static_cast<int64_t>(i / 32 * 18),
                bytes.begin() + static_cast<int64_t>(i / 32 * 18 + 18));
    for (int code = 0; code < 16; ++code) {
      block[2] = static_cast<uint8_t>(code);
      const double other = ref::block_value(Format::iq4_nl, block.data(), 0);
      ASSERT_LE(std::abs(y[i] - x[i]), std::abs(other - x[i]) + 1e-6) << i;
    }
  }
}

/// The largest code and the code of 0 of formats with equal steps.
struct Grid {
  int most, zero;
};
Grid grid(Format format) {
  switch (format) {
    case Format::q4_0:
      return {15, 8};
    case Format::q5_0:
      return {31, 16};
    case Format::q8_0:
      return {254, 127};
    case Format::q3_k:
      return {7, 4};
    case Format::q6_k:
      return {63, 32};
    case Format::q2_k:
      return {3, 1};
    case Format::q4_1:
    case Format::q4_k:
      return {15, 5};
    default:
      return {31, 11};  // q5_1, q5_k
  }
}

TEST_P(BlockFormats, ValuesOnTheGridAreKept) {
  constexpr int kIq4[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  Rng rng(11);
  for (const float step : {1.f, -1.f, 0x1p-6f, 0x1.8p-9f}) {
    // Formats with a minimum have steps of one sign.
    const float d = GetParam() == Format::q4_1 || GetParam() == Format::q5_1 || GetParam() == Format::q2_k ||
                            GetParam() == Format::q4_k || GetParam() == Format::q5_k
                        ? std::abs(step)
                        : step;
    Floats x(1024);
    const Grid g = grid(GetParam());
    for (size_t i = 0; i < x.size(); ++i) {
      // Every 16 elements hold the extreme codes, from which quantisers start.
      const int n = i % 16 == 3   ? 0
                    : i % 16 == 9 ? g.most
                                  : static_cast<int>(rng.below(static_cast<uint64_t>(g.most) + 1));
      x[i] = d * static_cast<float>(GetParam() == Format::iq4_nl ? kIq4[i % 16 == 3 ? 0 : rng.below(16)] : n - g.zero);
    }
    // The common factor of blocks of 256 is found but for its rounding to a half, since no other is exact either.
    const double tolerance = block_shape(GetParam()).elements == 256 ? 0x1p-11 : 0;
    for (const Floats& importance : {Floats{}, Floats(x.size(), 1.f)}) {
      const Floats y = round_trip(GetParam(), x, importance);
      for (size_t i = 0; i < x.size(); ++i)
        ASSERT_NEAR(y[i], x[i], tolerance * g.most * std::abs(d)) << "step " << d << ", element " << i;
    }
  }
}

TEST(BlockQuant, PlainFormatsRoundToNearestEven) {
  // Halves have 10 bits after the leading one, bfloat16 7.
  const Floats x = {1 + 0x1p-11f, 1 + 0x1.8p-10f, 65519, 65520, 0x1p-25f, 0x1.8p-24f, -0.f, 1 + 0x1p-8f, 1 + 0x1.8p-7f};
  const Floats half = round_trip(Format::f16, x), brain = round_trip(Format::bf16, x);
  EXPECT_EQ(half[0], 1);
  EXPECT_EQ(half[1], 1 + 0x1p-9f);
  EXPECT_EQ(half[2], 65504);
  EXPECT_EQ(half[3], std::numeric_limits<float>::infinity());
  EXPECT_EQ(half[4], 0);
  EXPECT_EQ(half[5], 0x1p-23f);
  EXPECT_TRUE(std::signbit(half[6]));
  EXPECT_EQ(brain[7], 1);
  EXPECT_EQ(brain[8], 1 + 0x1p-6f);
  for (const Format format : {Format::f16, Format::bf16, Format::f32}) {
    EXPECT_TRUE(std::isnan(round_trip(format, {std::nanf("")})[0]));
    EXPECT_EQ(round_trip(format, {-std::numeric_limits<float>::infinity()})[0],
              -std::numeric_limits<float>::infinity());
  }
}

TEST(BlockQuant, RefusesWhatTheContractExcludes) {
  Floats x(256), y(256);
  Bytes bytes(1024);
  EXPECT_THROW(quantize_row(x.data(), Format::q4_0, 31, nullptr, bytes.data()), Bug);
  EXPECT_THROW(quantize_row(x.data(), Format::q4_k, 32, nullptr, bytes.data()), Bug);
  EXPECT_THROW(quantize_row(x.data(), Format::fp8_128, 128, nullptr, bytes.data()), Bug);
  EXPECT_THROW(dequantize_row(bytes.data(), Format::q6_k, 128, y.data()), Bug);
  EXPECT_THROW(dequantize_row(bytes.data(), Format::fp8_128, 128, y.data()), Bug);
  for (const float bad : {-1.f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    Floats importance(256, 1.f);
    importance[200] = bad;
    EXPECT_THROW(quantize_row(x.data(), Format::q4_k, 256, importance.data(), bytes.data()), Bug) << bad;
  }
  const Matrix w{bytes.data(), nullptr, Format::q4_0, 2, 64};
  EXPECT_THROW(dequantize_blocks(stream(1), Tensor(y.data(), {1, 64}), w), Bug);
  EXPECT_THROW(quantize_blocks(stream(1), w, Tensor(x.data(), {2, 32}), nullptr), Bug);
}

INSTANTIATE_TEST_SUITE_P(Formats, AllFormats, testing::ValuesIn(kAllFormats),
                         [](const auto& test) { return std::string(format_name(test.param)); });
INSTANTIATE_TEST_SUITE_P(Formats, BlockFormats, testing::ValuesIn(kBlockFormats),
                         [](const auto& test) { return std::string(format_name(test.param)); });

}  // namespace
}  // namespace sluice::test
