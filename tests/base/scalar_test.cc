// The small floats: E4M3, UE8M0 scales, bfloat16, half. The truth is a search over all values in double.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/dtype.h"
#include "base/fp8.h"
#include "base/rng.h"

namespace sluice {
namespace {

/// The value of a code from the definition of the format (specification 5.5).
double e4m3_value(int code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return NAN;
  const double magnitude = exponent ? std::ldexp(1.0 + mantissa / 8.0, exponent - 7) : std::ldexp(mantissa / 8.0, -6);
  return code & 0x80 ? -magnitude : magnitude;
}

/// The nearest finite code by search; of two equally near ones the even one; beyond 448 it is 448.
int nearest_e4m3(double x) {
  const double a = std::fabs(x);
  int best = 0;
  for (int code = 1; code < 0x7f; ++code) {
    const double d = std::fabs(e4m3_value(code) - a), d_best = std::fabs(e4m3_value(best) - a);
    if (d < d_best || (d == d_best && code % 2 == 0)) best = code;
  }
  return best | (std::signbit(x) ? 0x80 : 0);
}

TEST(E4M3, PublishedValues) {
  EXPECT_EQ(e4m3_to_f32(0x00), 0.0f);
  EXPECT_EQ(e4m3_to_f32(0x01), 0.001953125f);
  EXPECT_EQ(e4m3_to_f32(0x07), 0.013671875f);
  EXPECT_EQ(e4m3_to_f32(0x08), 0.015625f);
  EXPECT_EQ(e4m3_to_f32(0x38), 1.0f);
  EXPECT_EQ(e4m3_to_f32(0x3c), 1.5f);
  EXPECT_EQ(e4m3_to_f32(0x70), 128.0f);
  EXPECT_EQ(e4m3_to_f32(0x77), 240.0f);
  EXPECT_EQ(e4m3_to_f32(0x78), 256.0f);
  EXPECT_EQ(e4m3_to_f32(0x7e), 448.0f);
  EXPECT_EQ(e4m3_to_f32(0xfe), -448.0f);
}

TEST(E4M3, AllCodesRoundTrip) {
  for (int code = 0; code < 256; ++code) {
    const float value = e4m3_to_f32(static_cast<uint8_t>(code));
    EXPECT_EQ(e4m3_table()[static_cast<size_t>(code)] == value, value == value);
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value));
      continue;
    }
    EXPECT_EQ(value, e4m3_value(code)) << code;
    EXPECT_EQ(e4m3_from_f32(value), code);
  }
}

TEST(E4M3, RoundsAsTheSearchDoes) {
  std::vector<float> values = {0.0f, -0.0f, 1e-45f, 1e-30f, 0x1p-10f, 447.9f, 448.0f, 455.0f, 463.9f, 464.0f, 465.0f};
  for (int code = 0; code < 0x7e; ++code) {
    // The tie between two neighbours, and the floats beside it.
    const float tie = static_cast<float>((e4m3_value(code) + e4m3_value(code + 1)) / 2);
    values.insert(values.end(), {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 1000.0f)});
    const float value = static_cast<float>(e4m3_value(code));
    values.insert(values.end(), {std::nextafter(value, 0.0f), std::nextafter(value, 1000.0f)});
  }
  Rng rng(1);
  for (int i = 0; i < 20000; ++i)
    values.push_back(static_cast<float>(std::ldexp(1 + rng.uniform(), static_cast<int>(rng.below(24)) - 14)));
  for (const float v : values) {
    ASSERT_EQ(e4m3_from_f32(v), nearest_e4m3(v)) << v;
    ASSERT_EQ(e4m3_from_f32(-v), nearest_e4m3(-v)) << -v;
  }
}

TEST(E4M3, SaturatesAndKeepsNan) {
  for (const float big : {448.1f, 500.0f, 1e30f, INFINITY}) {
    EXPECT_EQ(e4m3_from_f32(big), 0x7e) << big;
    EXPECT_EQ(e4m3_from_f32(-big), 0xfe) << big;
  }
  EXPECT_EQ(e4m3_from_f32(std::bit_cast<float>(0x7fc00000u)), 0x7f);
  EXPECT_EQ(e4m3_from_f32(std::bit_cast<float>(0xffc00000u)), 0xff);
  EXPECT_EQ(e4m3_from_f32(std::bit_cast<float>(0x7f800001u)), 0x7f);
}

TEST(UE8M0, PublishedExamples) {
  for (const auto& [amax, scale] : {std::pair{448.0f, 1.0f}, {1.0f, 0x1p-8f}, {3.0f, 0x1p-7f}, {0.5f, 0x1p-9f}})
    EXPECT_EQ(ue8m0_round_up(amax / 448.0f), scale) << amax;
}

TEST(UE8M0, IsTheSmallestPowerOfTwoNotBelow) {
  Rng rng(2);
  for (int i = 0; i < 20000; ++i) {
    const float s = static_cast<float>(std::ldexp(1 + rng.uniform(), static_cast<int>(rng.below(240)) - 120));
    const float p = ue8m0_round_up(s);
    int exponent = 0;
    ASSERT_EQ(std::frexp(p, &exponent), 0.5f);
    ASSERT_GE(p, s);
    ASSERT_LT(p / 2, s);
    ASSERT_EQ(ue8m0_round_up(p), p);
  }
  EXPECT_EQ(ue8m0_round_up(0.0f), 0x1p-126f);
  EXPECT_EQ(ue8m0_round_up(1e-45f), 0x1p-126f);
  EXPECT_EQ(ue8m0_round_up(3e38f), 0x1p127f);
}

TEST(Bf16, RoundsToNearestEven) {
  const auto bits = [](float v) { return bf16(v).bits; };
  EXPECT_EQ(bits(1.0f), 0x3f80);
  EXPECT_EQ(bits(-2.0f), 0xc000);
  EXPECT_EQ(bits(0.0f), 0x0000);
  EXPECT_EQ(bits(-0.0f), 0x8000);
  EXPECT_EQ(bits(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // ties go to the even mantissa
  EXPECT_EQ(bits(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_EQ(bits(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(bits(std::bit_cast<float>(0x3f807fffu)), 0x3f80);
  EXPECT_EQ(bits(std::bit_cast<float>(0x3fffffffu)), 0x4000);  // the carry reaches the exponent
  EXPECT_EQ(bits(std::bit_cast<float>(0x7f7fffffu)), 0x7f80);  // and infinity
  EXPECT_EQ(bits(INFINITY), 0x7f80);
  EXPECT_EQ(bits(-INFINITY), 0xff80);
  EXPECT_EQ(bits(std::bit_cast<float>(0x00000001u)), 0x0000);  // subnormals too
  EXPECT_EQ(bits(std::bit_cast<float>(0x00018000u)), 0x0002);
  for (const uint32_t nan : {0x7f800001u, 0xff800001u, 0x7fffffffu, 0x7fc00000u})
    EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::bit_cast<float>(nan))))) << nan;
}

TEST(Bf16, AllCodesRoundTripAndRoundingIsNearest) {
  for (uint32_t code = 0; code < 0x10000; ++code) {
    bf16 b;
    b.bits = static_cast<uint16_t>(code);
    const float value = static_cast<float>(b);
    ASSERT_TRUE(std::isnan(value) || bf16(value).bits == code) << code;
  }
  Rng rng(3);
  for (int i = 0; i < 20000; ++i) {
    const float v = static_cast<float>(std::ldexp(1 + rng.uniform(), static_cast<int>(rng.below(100)) - 50));
    bf16 up = bf16(v), down = bf16(v);
    ++up.bits, --down.bits;
    const double error = std::fabs(double{static_cast<float>(bf16(v))} - v);
    ASSERT_LE(error, std::fabs(double{static_cast<float>(up)} - v));
    ASSERT_LE(error, std::fabs(double{static_cast<float>(down)} - v));
  }
}

TEST(F16, EveryCodeHasItsValue) {
  for (int code = 0; code < 0x10000; ++code) {
    const int exponent = (code >> 10) & 31, mantissa = code & 1023;
    const float value = f16_to_f32(static_cast<uint16_t>(code));
    const double sign = code & 0x8000 ? -1 : 1;
    if (exponent == 31 && mantissa) {
      ASSERT_TRUE(std::isnan(value));
    } else if (exponent == 31) {
      ASSERT_EQ(value, sign * INFINITY);
    } else {
      const double m = exponent ? 1 + mantissa / 1024.0 : mantissa / 1024.0;
      ASSERT_EQ(value, sign * std::ldexp(m, exponent ? exponent - 15 : -14));
    }
  }
}

/// The nearest code by search, ties to the even one; beyond the last value's half step it is infinity (0x7c00), as if
/// the next value, 65536, had that code.
int nearest_f16(double a) {
  int low = 0, high = 0x7c00;
  const auto value = [](int code) { return code == 0x7c00 ? 65536.0 : f16_to_f32(static_cast<uint16_t>(code)); };
  if (a >= value(high)) return high;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (value(middle) <= a ? low : high) = middle;
  }
  const double below = a - value(low), above = value(high) - a;
  return below < above || (below == above && low % 2 == 0) ? low : high;
}

TEST(F16, EveryCodeRoundTrips) {
  for (int code = 0; code < 0x10000; ++code) {
    const float value = f16_to_f32(static_cast<uint16_t>(code));
    if (std::isnan(value))
      ASSERT_TRUE(std::isnan(f16_to_f32(f32_to_f16(value)))) << code;
    else
      ASSERT_EQ(f32_to_f16(value), code);
  }
}

TEST(F16, RoundsAsTheSearchDoes) {
  const auto agrees = [](float v) {
    ASSERT_EQ(f32_to_f16(v), nearest_f16(std::fabs(v)) | (std::signbit(v) ? 0x8000 : 0)) << v;
  };
  for (int code = 0; code < 0x7c00; ++code) {  // at every tie, and next to it on both sides
    const double next = code == 0x7bff ? 65536.0 : f16_to_f32(static_cast<uint16_t>(code + 1));
    const float tie = static_cast<float>((f16_to_f32(static_cast<uint16_t>(code)) + next) / 2);
    for (float v : {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 1e6f), -tie}) agrees(v);
  }
  Rng rng(4);
  for (int i = 0; i < 200000; ++i) {
    const float v = std::bit_cast<float>(static_cast<uint32_t>(rng.next()));
    if (!std::isnan(v)) agrees(v);
  }
  EXPECT_EQ(f32_to_f16(-INFINITY), 0xfc00);
}

}  // namespace
}  // namespace sluice
