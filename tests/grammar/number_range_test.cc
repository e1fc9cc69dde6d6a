#include "grammar/number_range.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "walk.h"

namespace sluice {
namespace {

Constraint numbers(const std::string& keywords) {
  return byte_vocabulary().constraint(GrammarPart::json("{" + keywords + "}"));
}

TEST(NumberRange, EveryIntegerIsOnItsSide) {
  for (const auto& [min, max] : {std::pair{-120, 7}, {0, 0}, {3, 118}, {-9, -9}, {10, 99}, {-100, -10}, {99, 101}}) {
    const Constraint c = numbers(fmt::format(R"("type":"integer","minimum":{},"maximum":{})", min, max));
    const Constraint open = numbers(fmt::format(R"("type":"integer","exclusiveMinimum":{})", min));
    const Constraint below = numbers(fmt::format(R"("type":"integer","exclusiveMaximum":{}.5)", max));
    for (int i = -1100; i <= 1100; ++i) {
      const std::string text = std::to_string(i);
      EXPECT_EQ(matches(c, text), min <= i && i <= max) << text << " in " << min << ", " << max;
      EXPECT_EQ(matches(open, text), i > min) << text << " above " << min;
      EXPECT_EQ(matches(below, text), max < 0 ? i < max : i <= max) << text << " below " << max << ".5";
    }
    EXPECT_FALSE(matches(c, "-0"));
    EXPECT_FALSE(matches(c, "007"));
  }
}

TEST(NumberRange, EveryFractionIsOnItsSide) {
  // Bounds in thousandths.
  for (const auto& [min, max] :
       {std::pair{-1250, 300}, {0, 1000}, {5, 5}, {999, 1001}, {-2000, -1999}, {120, 12'340}}) {
    const std::string bounds[] = {fmt::format("{:.3f}", min / 1000.0), fmt::format("{:.3f}", max / 1000.0)};
    const Constraint closed = numbers(fmt::format(R"("minimum":{},"maximum":{})", bounds[0], bounds[1]));
    const Constraint open = numbers(
        fmt::format(R"("exclusiveMinimum":{},"exclusiveMaximum":{},"type":["number","null"])", bounds[0], bounds[1]));
    for (int i = -2100; i <= 13'000; ++i) {
      const std::string text = fmt::format("{}{}.{:03}", i < 0 ? "-" : "", std::abs(i) / 1000, std::abs(i) % 1000);
      EXPECT_EQ(matches(closed, text), min <= i && i <= max) << text;
      EXPECT_EQ(matches(closed, text + "0"), min <= i && i <= max) << text;
      EXPECT_EQ(matches(closed, text + "1"), i < 0 ? min < i && i <= max : min <= i && i < max) << text << 1;
      EXPECT_EQ(matches(open, text), min < i && i < max) << text;
    }
  }
  EXPECT_TRUE(matches(numbers(R"("minimum":0,"maximum":1)"), "1"));
  EXPECT_TRUE(matches(numbers(R"("minimum":0,"maximum":1)"), "0"));
  EXPECT_FALSE(matches(numbers(R"("minimum":0,"maximum":1)"), "1."));
}

TEST(NumberRange, DecimalsAreExact) {
  const auto digits = [](const char* text) {
    const Decimal d = parse_decimal(text, "x");
    return fmt::format("{}{}.{}", d.negative ? "-" : "", d.whole, d.fraction);
  };
  EXPECT_EQ(digits("0"), ".");
  EXPECT_EQ(digits("-0.0"), ".");
  EXPECT_EQ(digits("-12.50"), "-12.5");
  EXPECT_EQ(digits("1e-07"), ".0000001");
  EXPECT_EQ(digits("1.25e+3"), "1250.");
  EXPECT_EQ(digits("12.5E-1"), "1.25");
  EXPECT_THROW(parse_decimal("1e18", "x"), Error);
  EXPECT_THROW(parse_decimal("1e-17", "x"), Error);
  EXPECT_THROW(parse_decimal("1e99999999999999999999", "x"), Error);
}

}  // namespace
}  // namespace sluice
