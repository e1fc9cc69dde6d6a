#include "formats/tiktoken.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <unordered_set>

#include "base/error.h"
#include "formats/tokenizer_json.h"

namespace sluice {
namespace {

constexpr size_t kMaxTokenBytes = 1024;

int value_of(char c) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const size_t at = kAlphabet.find(c);
  return at == std::string_view::npos ? -1 : static_cast<int>(at);
}

/// Nothing when it is not base64 with its padding.
std::optional<std::string> decode_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  std::string bytes;
  uint32_t bits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const int value = i < text.size() - padding ? value_of(text[i]) : 0;
    if (value < 0) return std::nullopt;
    bits = bits << 6 | static_cast<uint32_t>(value);
    if (i % 4 == 3)
      for (const int shift : {16, 8, 0}) bytes += static_cast<char>(bits >> shift & 0xff);
  }
  bytes.resize(bytes.size() - padding);
  return bytes;
}

std::pair<std::string, int32_t> parse_line(std::string_view line, const std::string& name, size_t number) {
  const size_t space = std::min(line.find(' '), line.size());
  auto token = decode_base64(line.substr(0, space));
  const char *begin = line.data() + std::min(space + 1, line.size()), *end = line.data() + line.size();
  int32_t rank = -1;
  const auto [rest, error] = std::from_chars(begin, end, rank);
  if (!token || token->empty() || token->size() > kMaxTokenBytes || error != std::errc() || rest != end || rank < 0 ||
      rank >= kMaxTokenizerIds)
    fail("{}: line {}: expected 1 to {} bytes in base64 and a rank below {}, found {:?}", name, number, kMaxTokenBytes,
         kMaxTokenizerIds, line.substr(0, 60));
  return {*std::move(token), rank};
}

}  // namespace

std::vector<std::pair<std::string, int32_t>> parse_tiktoken(std::string_view text, const std::string& name) {
  std::vector<std::pair<std::string, int32_t>> tokens;
  std::unordered_set<std::string> seen;
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty()) continue;
    tokens.push_back(parse_line(line, name, number));
    if (!seen.insert(tokens.back().first).second)
      fail("{}: line {}: expected every token once, found {:?} again", name, number, line.substr(0, 60));
  }
  std::sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  for (size_t i = 1; i < tokens.size(); ++i)
    if (tokens[i - 1].second == tokens[i].second)
      fail("{}: expected unique ranks, found {} twice", name, tokens[i].second);
  return tokens;
}

}  // namespace sluice
