// From tokens to text as it is written: whole UTF-8 characters only, and nothing of a stop string.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace sluice {

/// Turns bytes that arrive in pieces into valid UTF-8. Every maximal piece of an ill-formed sequence becomes U+FFFD, as
/// the Unicode standard recommends.
class Utf8Stream {
 public:
  /// Appends `bytes`; returns the characters that are complete now.
  std::string push(std::string_view bytes);
  /// What is left: U+FFFD when a character is incomplete, else nothing.
  std::string finish();

 private:
  std::string pending_;  // the valid beginning of a character, at most 3 bytes
};

/// The text of one answer.
class TextStream {
 public:
  /// `stops`: strings that end the text and are no part of it; empty ones are ignored. `tokenizer` must outlive it.
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops);

  /// The next token; special tokens have no text. Returns text that is certain not to belong to a stop string: what may
  /// still become one is held back. After stopped() it returns nothing.
  std::string push(int32_t id);
  /// The end of the text: returns what was held back.
  std::string finish();
  /// Whether a stop string was found.
  bool stopped() const { return stopped_; }

 private:
  std::string take(bool end);

  const Tokenizer& tokenizer_;
  std::vector<std::string> stops_;
  Utf8Stream utf8_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace sluice
