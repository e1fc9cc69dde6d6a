// A chat template cut into text and the tokens of its tags.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace sluice::jinja {

struct Token {
  enum class Kind { text, tag_begin, tag_end, print_begin, print_end, name, string, integer, real, symbol, end } kind;
  std::string text;  // text and strings: what they stand for; others: as written
  int line;
};

/// The tokens of `source`, Kind::end last. White space control, trim_blocks and lstrip_blocks are applied, comments
/// and empty text left out. Throws Error "<name>:<line>: ...".
std::vector<Token> tokenize(std::string_view source, const std::string& name);

}  // namespace sluice::jinja
