// Finds added tokens in raw text, before pre-tokenisation (specification 7.2).
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "formats/tokenizer_json.h"
#include "tokenizer/regex.h"

namespace sluice {

/// Matches a set of added tokens from left to right, the longest first; immutable.
class AddedTokenMatcher {
 public:
  /// Of `tokens` those with this `normalized` flag: the `tokenizers` package looks for the others first, and for these
  /// in what remains.
  AddedTokenMatcher(const std::vector<AddedToken>& tokens, bool normalized);

  /// Calls text(std::string_view) for every stretch without a token (not empty) and token(int32_t id) for every token,
  /// in order.
  template <class Text, class Token>
  void split(std::string_view source, RegexScratch& scratch, Text&& text, Token&& token) const {
    size_t done = 0, from = 0;
    while (const std::optional<Match> match = find(source, from, done, scratch)) {
      if (match->begin > done) text(source.substr(done, match->begin - done));
      token(match->id);
      done = match->end;
      from = match->next;
    }
    if (done < source.size()) text(source.substr(done));
  }

  /// Bytes of the longest token that starts at `at`; 0: none does.
  size_t length_at(std::string_view source, size_t at) const {
    const uint32_t token = longest(source, at);
    return token == kNoToken ? 0 : tokens_[token].content.size();
  }

 private:
  static constexpr uint32_t kNoToken = UINT32_MAX;
  struct Match {
    int32_t id;
    size_t begin, end;  // with the white space that lstrip and rstrip eat
    size_t next;        // where the search goes on
  };

  /// The first match at or after `from`; white space before `done` is not eaten.
  std::optional<Match> find(std::string_view source, size_t from, size_t done, RegexScratch& scratch) const;
  /// The longest token that starts at `at`, or kNoToken.
  uint32_t longest(std::string_view source, size_t at) const;
  bool touches_word(std::string_view source, size_t begin, size_t end, RegexScratch& scratch) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<uint64_t, uint32_t> child_;  // (node << 8 | byte) -> node of a trie; node 0 is the root
  std::vector<uint32_t> token_at_;                // by node: index in tokens_
  std::array<bool, 256> first_byte_{};
  Regex word_;
};

}  // namespace sluice
