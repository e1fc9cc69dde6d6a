// Sets of strings as deterministic automata over characters: what the patterns of a schema become.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/json_text.h"

namespace sluice {

/// Characters [lo, hi], inclusive.
struct CharRange {
  char32_t lo, hi;
};

/// State 0 is the first. A character without an edge ends nowhere.
struct CharDfa {
  struct Edge {
    CharRange range;
    uint32_t to;
  };
  struct State {
    bool is_final = false;
    std::vector<Edge> edges;  // do not overlap
  };
  std::vector<State> states;
};

/// The strings that match `pattern`, a regular expression as JSON schemas use them (ECMA-262, unicode): literals, `.`,
/// classes, \d \w \s and their negations, groups, alternatives and repetitions; a match may begin and end anywhere
/// unless ^ and $ stand at the ends of an alternative. Throws Error "where: ..." for anything else (look-around, back
/// references, \b, \p), and where it takes too many states or too much work: `work` grows by what is done,
/// up to kMaxCompileWork.
CharDfa compile_pattern(std::string_view pattern, const std::string& where, size_t& work);

/// The pattern of `format`, or an empty one where the format is unknown.
std::string_view pattern_of_format(std::string_view format);
/// All formats, for messages: "date, time, ...".
std::string known_formats();

/// The strings of `dfa` of `min` to `max` characters. Throws Error as above.
CharDfa limit_length(const CharDfa& dfa, uint32_t min, uint32_t max, const std::string& where);

/// Writes the strings of `dfa` with their quotes as JSON.
void add_strings(AutomatonBuilder& net, JsonText& json, uint32_t from, const CharDfa& dfa, uint32_t to);

}  // namespace sluice
