#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "tokenizer/byte_level.h"

namespace sluice {
namespace {

bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// The character that ends at `end`, as a view; empty where there is none or it is not valid UTF-8.
std::string_view character_before(std::string_view source, size_t end) {
  for (size_t length = 1; length <= std::min<size_t>(4, end); ++length) {
    const std::string_view c = source.substr(end - length, length);
    if (utf8_length(c) == length) return c;
  }
  return {};
}

/// The character at `begin`; empty as above.
std::string_view character_at(std::string_view source, size_t begin) {
  return begin < source.size() ? source.substr(begin, utf8_length(source.substr(begin))) : std::string_view{};
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedToken>& tokens, bool normalized)
    : token_at_(1, kNoToken), word_(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])", false, "word character") {
  for (const AddedToken& token : tokens) {
    if (token.normalized != normalized || token.content.empty()) continue;
    uint32_t node = 0;
    for (const char c : token.content) {
      const uint64_t key = uint64_t{node} << 8 | static_cast<unsigned char>(c);
      const auto [it, added] = child_.try_emplace(key, static_cast<uint32_t>(token_at_.size()));
      if (added) token_at_.push_back(kNoToken);
      node = it->second;
    }
    token_at_[node] = static_cast<uint32_t>(tokens_.size());
    first_byte_[static_cast<unsigned char>(token.content[0])] = true;
    tokens_.push_back(token);
  }
}

uint32_t AddedTokenMatcher::longest(std::string_view source, size_t at) const {
  uint32_t node = 0, found = kNoToken;
  for (size_t i = at; i < source.size(); ++i) {
    const auto it = child_.find(uint64_t{node} << 8 | static_cast<unsigned char>(source[i]));
    if (it == child_.end()) break;
    node = it->second;
    if (token_at_[node] != kNoToken) found = token_at_[node];
  }
  return found;
}

bool AddedTokenMatcher::touches_word(std::string_view source, size_t begin, size_t end, RegexScratch& scratch) const {
  size_t b = 0, e = 0;
  return word_.find(character_before(source, begin), 0, scratch, b, e) ||
         word_.find(character_at(source, end), 0, scratch, b, e);
}

std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::find(std::string_view source, size_t from, size_t done,
                                                                RegexScratch& scratch) const {
  for (size_t at = from; at < source.size(); ++at) {
    if (!first_byte_[static_cast<unsigned char>(source[at])]) continue;
    const uint32_t index = longest(source, at);
    if (index == kNoToken) continue;
    const AddedToken& token = tokens_[index];
    Match match{token.id, std::max(at, done), at + token.content.size(), at + token.content.size()};
    if (token.single_word && touches_word(source, at, match.end, scratch)) {
      at = match.end - 1;
      continue;
    }
    if (token.lstrip) {
      for (std::string_view c; match.begin > done; match.begin -= c.size()) {
        c = character_before(source, match.begin);
        if (c.empty() || !is_space(utf8_decode(c)) || c.size() > match.begin - done) break;
      }
    }
    if (token.rstrip) {
      for (std::string_view c = character_at(source, match.end); !c.empty() && is_space(utf8_decode(c));
           c = character_at(source, match.end))
        match.end += c.size();
    }
    match.end = std::max(match.end, done);
    return match;
  }
  return std::nullopt;
}

}  // namespace sluice
