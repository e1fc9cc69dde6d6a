// Vocabularies for tests: ids of byte strings, the last id being the end token.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/constraint.h"

namespace sluice {

struct Vocabulary {
  std::vector<std::string> tokens;  // by id; empty: a special token
  std::shared_ptr<const TokenTrie> trie;
  int32_t special_id = 0, end_id = 0;

  explicit Vocabulary(const std::vector<std::string>& more) {
    for (int b = 0; b < 256; ++b) tokens.emplace_back(1, static_cast<char>(b));
    tokens.insert(tokens.end(), more.begin(), more.end());
    special_id = static_cast<int32_t>(tokens.size());
    end_id = special_id + 1;
    tokens.resize(tokens.size() + 2);
    const std::vector<std::string_view> views(tokens.begin(), tokens.end());
    trie = std::make_shared<const TokenTrie>(views);
  }

  Constraint constraint(const GrammarPart& part) const {
    auto grammar = std::make_shared<const Grammar>(part, "schema");
    return Constraint(std::make_shared<TokenGrammar>(grammar, trie, std::vector<int32_t>{end_id}));
  }

  /// Ids that are allowed.
  std::vector<int32_t> allowed(const Constraint& c) const {
    std::vector<uint64_t> mask(tokens.size() / 64 + 1, ~uint64_t{0});
    c.allowed(mask);
    std::vector<int32_t> ids;
    for (size_t id = 0; id < mask.size() * 64; ++id)
      if (mask[id / 64] >> (id % 64) & 1) ids.push_back(static_cast<int32_t>(id));
    return ids;
  }
};

inline const Vocabulary& byte_vocabulary() {
  static const Vocabulary vocabulary({});
  return vocabulary;
}

/// Tokens that span the structure of JSON.
inline const Vocabulary& json_vocabulary() {
  static const Vocabulary vocabulary([] {
    std::vector<std::string> tokens = {
        "\":\"",  "\":",   "\": ",  "\": \"", "\",\"",    "\", \"", "},{",    "}, {", "}]",       "\"}",     "\"]",
        "{\"",    "[{\"",  "\n  ",  "\n    ", "\n",       ",\n",    "null",   "true", "false",    " \"",     "12",
        "123",    "00",    ".5",    "e+",     "-1",       "0.",     "name",   "na",   "é",        "\xC3",    "\xA9\"",
        "\\\"",   "\\u00", "\\n",   "\"\"",   "\"\":",    "[[",     "[[[[",   "]]",   "}}",       "}}}",     "\"\n}",
        "the",    " the ", "a",     "\"a\"",  "{}",       "[]",     "{}}",    "[],",  "],\"",     "{\"a\":", "\",",
        ":",      ": ",    ": {\"", ": [",    "\"}}",     "ab",     "abc",    "xyz",  "20",       "19",      "-0",
        "T1",     "@",     ".com",  "世",     "\xE4\xB8", "\x96",   "\x96\"", "😀",    "\xF0\x9F", "\\ud83d", "\\ude00",
        "\"b\":", "}}]}",  "null,", "true}",  "1,",       "2]",     ", "};
    return tokens;
  }());
  return vocabulary;
}

}  // namespace sluice
