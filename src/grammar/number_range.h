// Numbers between bounds, by their digits.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "grammar/automaton.h"

namespace sluice {

/// A decimal number, exactly.
struct Decimal {
  bool negative = false;  // not of zero
  std::string whole;      // digits without leading zeros; empty: 0
  std::string fraction;   // digits without trailing zeros

  bool is_zero() const { return whole.empty() && fraction.empty(); }
};

/// A number as JSON has it. Throws Error "where: ..." where it takes more than 18 digits before the point or 16 behind.
Decimal parse_decimal(std::string_view text, const std::string& where);

/// Negative, 0 or positive as `a` is below, equal to or above `b`.
int compare(const Decimal& a, const Decimal& b);

struct NumberBound {
  Decimal value;
  bool exclusive = false;
};

struct NumberRange {
  std::optional<NumberBound> min, max;
  bool is_integer = false;
};

/// Writes the numbers of `range`, which has a bound, without exponents: integers of at most 18 digits, others with at
/// most 16 digits behind the point. Writes nothing where there is none.
void add_numbers(AutomatonBuilder& net, uint32_t from, const NumberRange& range, uint32_t to);

}  // namespace sluice
