#include "tokenizer/byte_level.h"

#include <array>
#include <cstring>

namespace sluice {
namespace {

constexpr int kShifted = 68;  // bytes without a printable character of their own; they are U+0100 ... U+0143

struct Alphabet {
  std::array<std::string, 256> symbol;
  std::array<uint8_t, 256> order{};
  std::array<int16_t, 256 + kShifted> byte{};  // by code point; -1: none

  Alphabet() {
    byte.fill(-1);
    int shifted = 0, printable = 0;
    for (int b = 0; b < 256; ++b) {
      const bool prints = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      const int code = prints ? b : 256 + shifted++;
      order[static_cast<size_t>(prints ? printable++ : 256 - kShifted + shifted - 1)] = static_cast<uint8_t>(b);
      byte[static_cast<size_t>(code)] = static_cast<int16_t>(b);
      std::string& text = symbol[static_cast<size_t>(b)];
      if (code < 0x80) {
        text = {static_cast<char>(code)};
      } else {
        text = {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
      }
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

bool continues(unsigned char c) { return (c & 0xC0) == 0x80; }

}  // namespace

size_t utf8_length(std::string_view text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const unsigned char c = p[0];
  if (c < 0x80) return 1;
  if (c < 0xC2) return 0;
  if (text.size() < 2 || !continues(p[1])) return 0;
  if (c < 0xE0) return 2;
  if (text.size() < 3 || !continues(p[2])) return 0;
  if (c < 0xF0) return (c == 0xE0 && p[1] < 0xA0) || (c == 0xED && p[1] >= 0xA0) ? 0 : 3;
  if (text.size() < 4 || !continues(p[3])) return 0;
  return c > 0xF4 || (c == 0xF0 && p[1] < 0x90) || (c == 0xF4 && p[1] >= 0x90) ? 0 : 4;
}

char32_t utf8_decode(std::string_view text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const auto low = [&](int i) { return static_cast<char32_t>(p[i] & 0x3F); };
  if (p[0] < 0x80) return p[0];
  if (p[0] < 0xE0) return (static_cast<char32_t>(p[0] & 0x1F) << 6) | low(1);
  if (p[0] < 0xF0) return (static_cast<char32_t>(p[0] & 0x0F) << 12) | (low(1) << 6) | low(2);
  return (static_cast<char32_t>(p[0] & 0x07) << 18) | (low(1) << 12) | (low(2) << 6) | low(3);
}

size_t utf8_valid_prefix(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    uint64_t word = 0;
    if (i + sizeof(word) <= text.size()) {
      std::memcpy(&word, text.data() + i, sizeof(word));
      if ((word & 0x8080808080808080ull) == 0) {
        i += sizeof(word);
        continue;
      }
    }
    const size_t length = utf8_length(text.substr(i));
    if (length == 0) break;
    i += length;
  }
  return i;
}

std::string_view byte_symbol(uint8_t byte) { return alphabet().symbol[byte]; }

uint8_t byte_in_alphabet_order(int n) { return alphabet().order[static_cast<size_t>(n)]; }

std::optional<std::string> bytes_of_symbols(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const size_t length = utf8_length(token);
    if (length == 0) return std::nullopt;
    const char32_t code = utf8_decode(token);
    if (code >= alphabet().byte.size() || alphabet().byte[code] < 0) return std::nullopt;
    bytes += static_cast<char>(alphabet().byte[code]);
    token.remove_prefix(length);
  }
  return bytes;
}

}  // namespace sluice
