#include "serve/api_key.h"

#include <algorithm>

#include "base/error.h"

namespace sluice {
namespace {

constexpr std::string_view kScheme = "bearer ";

/// Looks at all of `key`, always.
bool same(std::string_view shown, std::string_view key) {
  unsigned difference = shown.size() != key.size();
  for (size_t i = 0; i < key.size(); ++i)
    difference |= static_cast<unsigned char>(key[i]) ^ static_cast<unsigned char>(i < shown.size() ? shown[i] : 0);
  return difference == 0;
}

std::string_view trimmed(std::string_view line) {
  constexpr std::string_view kSpace = " \t\r";
  const size_t begin = line.find_first_not_of(kSpace);
  return begin == line.npos ? std::string_view() : line.substr(begin, line.find_last_not_of(kSpace) + 1 - begin);
}

}  // namespace

bool has_api_key(std::string_view header, const std::vector<std::string>& keys) {
  const bool bearer = header.size() >= kScheme.size() &&
                      std::equal(kScheme.begin(), kScheme.end(), header.begin(),
                                 [](char a, char b) { return a == (b >= 'A' && b <= 'Z' ? b - 'A' + 'a' : b); });
  const std::string_view shown = bearer ? trimmed(header.substr(kScheme.size())) : std::string_view();
  bool found = false;
  for (const std::string& key : keys) found |= same(shown, key);
  return found;
}

std::vector<std::string> parse_api_keys(std::string_view text, const std::string& where) {
  std::vector<std::string> keys;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view key = trimmed(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (key.empty() || key.front() == '#') continue;
    if (!std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c < 127; }))
      fail("{}: expected keys of printable ASCII characters without spaces", where);
    keys.emplace_back(key);
  }
  if (keys.empty()) fail("{}: expected a key, found none", where);
  return keys;
}

}  // namespace sluice
