// The parts of JSON text that do not depend on a schema: white space, characters, strings, numbers, any value.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/automaton.h"

namespace sluice {

/// Writes parts of JSON text into a network, each from a state to a state. Rules that many places share are made once.
class JsonText {
 public:
  /// `net` must outlive it, and have no states yet.
  explicit JsonText(AutomatonBuilder& net);

  /// White space between tokens, or none: one space, or a new line and at most 32 spaces. Bounded, so that a model
  /// cannot go on with it for ever.
  void space(uint32_t from, uint32_t to);
  /// One space or none, behind a colon.
  void one_space(uint32_t from, uint32_t to);
  /// `"name":` with the space behind it; `quoted` has the quotes.
  void key(uint32_t from, const std::string& quoted, uint32_t to);

  /// A character of a string, as itself where JSON allows it and in the shortest escape otherwise: any of [lo, hi].
  /// Surrogates are left out, and control characters without a short escape where there are others.
  void characters(uint32_t from, char32_t lo, char32_t hi, uint32_t to);
  /// The same for all characters from U+0080 on.
  void wide_character(uint32_t from, uint32_t to) { net_.call(from, wide_, to); }
  /// Any character of a string in any of its forms.
  void any_character(uint32_t from, uint32_t to);
  /// Any character that is not escaped.
  void plain_character(uint32_t from, uint32_t to);

  /// A string of `min` to `max` characters (Unicode code points); kNoLimit: any number.
  void string(uint32_t from, uint32_t min, uint32_t max, uint32_t to);
  static constexpr uint32_t kNoLimit = UINT32_MAX;
  /// The key of a member that is none of `names`; without escapes unless there are no names.
  void other_key(uint32_t from, const std::vector<std::string>& names, uint32_t to);

  /// A number of at most 18 digits before the point, 16 behind it and 2 in the exponent: every parser can hold it.
  void number(uint32_t from, bool is_integer, uint32_t to);

  Rule any_value() const { return value_; }
  Rule any_object() const { return object_; }

 private:
  void add_space_rule();
  void add_character_rules();
  void add_escape_rule();
  void add_value_rules();
  uint32_t list(uint32_t from, std::string_view brackets, uint32_t to);
  void utf8_range(uint32_t from, const std::string& lo, const std::string& hi, uint32_t to);
  void escaped(uint32_t from, char32_t lo, char32_t hi, bool common_only, uint32_t to);
  uint32_t hex_digits(uint32_t from, int count);
  void hex_digit(uint32_t from, uint32_t lo, uint32_t hi, uint32_t to);

  AutomatonBuilder& net_;
  Rule space_, wide_, escape_, string_, value_, object_;
};

/// A code point as UTF-8.
std::string utf8_encode(char32_t c);

}  // namespace sluice
