#include "chat/jinja_text.h"

#include <algorithm>
#include <array>

namespace sluice::jinja {
namespace {

/// The characters that Python's str.isspace() knows.
bool is_space(std::string_view character) {
  static constexpr std::array<std::string_view, 10> kOthers = {
      "\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\xA8", "\xE2\x80\xA9",
      "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80", "\x1C",         "\x1D"};
  if (character.size() == 1)
    return (character[0] >= '\t' && character[0] <= '\r') || (character[0] >= '\x1C' && character[0] <= ' ');
  if (character.starts_with("\xE2\x80") && character.size() == 3)
    if (const auto last = static_cast<unsigned char>(character[2]); last >= 0x80 && last <= 0x8A) return true;
  return std::find(kOthers.begin(), kOthers.end(), character) != kOthers.end();
}

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

}  // namespace

size_t character_size(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t want = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  size_t n = 1;
  while (n < want && n < text.size() && is_continuation(text[n])) ++n;
  return n;
}

size_t count_characters(std::string_view text) {
  size_t n = 0;
  for (; !text.empty(); ++n) text.remove_prefix(character_size(text));
  return n;
}

size_t character_offset(std::string_view text, size_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += character_size(text.substr(at));
  return at;
}

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> all;
  while (!text.empty()) {
    all.push_back(text.substr(0, character_size(text)));
    text.remove_prefix(all.back().size());
  }
  return all;
}

std::string_view strip(std::string_view text, const std::string* set, bool left, bool right) {
  const std::vector<std::string_view> in_set = set ? characters(*set) : std::vector<std::string_view>();
  const auto drops = [&](std::string_view c) {
    return set ? std::find(in_set.begin(), in_set.end(), c) != in_set.end() : is_space(c);
  };
  while (left && !text.empty()) {
    const size_t n = character_size(text);
    if (!drops(text.substr(0, n))) break;
    text.remove_prefix(n);
  }
  while (right && !text.empty()) {
    size_t at = text.size() - 1;
    while (at > 0 && text.size() - at < 4 && is_continuation(text[at])) --at;
    if (!drops(text.substr(at))) break;
    text = text.substr(0, at);
  }
  return text;
}

std::string replace(std::string_view text, std::string_view from, std::string_view to, int64_t count) {
  std::string out;
  if (from.empty()) {  // Python puts `to` between all characters
    for (const std::string_view c : characters(text)) out.append(count-- != 0 ? to : std::string_view()).append(c);
    return out.append(count != 0 ? to : std::string_view());
  }
  for (size_t at; count != 0 && (at = text.find(from)) != std::string_view::npos; --count) {
    out.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
  }
  return out.append(text);
}

std::string upper(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  return out;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

}  // namespace sluice::jinja
