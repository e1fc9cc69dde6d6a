// Regular expressions as a tree.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/char_dfa.h"

namespace sluice {

/// A piece of a regular expression.
struct RegexNode {
  enum class Kind : uint8_t { characters, sequence, choice, repeat };
  static constexpr uint32_t kUnbounded = UINT32_MAX;

  Kind kind = Kind::sequence;
  std::vector<CharRange> characters;  // sorted, do not overlap
  std::vector<RegexNode> parts;       // sequence, choice, repeat (one)
  uint32_t min = 0, max = 0;          // repeat
};

/// The tree of `pattern`, in which what is not anchored begins or ends with any characters: it describes whole strings.
/// Throws Error "where: ..." (see compile_pattern).
RegexNode parse_regex(std::string_view pattern, const std::string& where);

}  // namespace sluice
