// From tokens to text as it is written: whole UTF-8 characters only, and nothing of a stop string.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
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

/// Text that ends before the first of some stop strings.
class StopFilter {
 public:
  /// `stops`: strings that end the text and are no part of it; empty ones are ignored.
  explicit StopFilter(std::vector<std::string> stops);

  /// The next piece. Returns text that is certain not to belong to a stop string: what may still become one is held
  /// back. After stopped() it returns nothing.
  std::string push(std::string_view piece);
  /// The end of the text: returns what was held back.
  std::string finish();
  /// Whether a stop string was found.
  bool stopped() const { return stopped_; }

 private:
  std::string take(bool end);

  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

/// The text of tokens, one after the other: whole characters only.
class TokenText {
 public:
  /// Special tokens have no text but for those in `shown` (texts of added tokens; others are ignored): a reader of
  /// tool calls wants to see its tags. `tokenizer` must outlive it.
  explicit TokenText(const Tokenizer& tokenizer, std::span<const std::string_view> shown = {});

  /// The next token: the characters that are complete now.
  std::string push(int32_t id);
  /// What is left: U+FFFD when a character is incomplete, else nothing.
  std::string finish() { return utf8_.finish(); }

 private:
  const Tokenizer& tokenizer_;
  std::vector<int32_t> shown_;
  Utf8Stream utf8_;
};

/// The text of one completion: tokens in, text without stop strings out.
class TextStream {
 public:
  /// `tokenizer` must outlive it; `stops` as StopFilter's.
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops)
      : tokens_(tokenizer), filter_(std::move(stops)) {}

  /// The next token; special tokens have no text. Returns text as StopFilter::push.
  std::string push(int32_t id) { return filter_.push(tokens_.push(id)); }
  /// The end of the text: returns what was held back.
  std::string finish() { return filter_.push(tokens_.finish()) + filter_.finish(); }
  /// Whether a stop string was found.
  bool stopped() const { return filter_.stopped(); }

 private:
  TokenText tokens_;
  StopFilter filter_;
};

}  // namespace sluice
