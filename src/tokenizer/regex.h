// Regular expressions over Unicode text: the only place that knows PCRE2.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace sluice {

/// What one thread needs to match: it may be used with any Regex, by one thread at a time.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(RegexScratch&& other) noexcept;
  RegexScratch& operator=(RegexScratch&& other) noexcept;

 private:
  friend class Regex;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A compiled pattern with Unicode character classes; immutable. `\s`, `\w`, `\h`, `^` and `$` mean what they mean in
/// Oniguruma, the engine of the `tokenizers` package (`\s` of PCRE2 alone has U+180E too).
class Regex {
 public:
  /// `literal`: the pattern is the string itself. Throws Error "<where>: ..." when it does not compile; a class inside
  /// a class, which other engines read differently, is an error too.
  Regex(const std::string& pattern, bool literal, const std::string& where);
  ~Regex();
  Regex(Regex&& other) noexcept;
  Regex& operator=(Regex&& other) noexcept;

  /// The first match at or after `start` in `text`, which must be valid UTF-8 with `start` at a character: sets
  /// [begin, end) and returns true. Lookbehind sees the text before `start`. Throws Error when the match takes too many
  /// steps.
  bool find(std::string_view text, size_t start, RegexScratch& scratch, size_t& begin, size_t& end) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
