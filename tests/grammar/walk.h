// Random texts that a constraint allows.
#pragma once
#include <algorithm>
#include <optional>
#include <random>
#include <string>

#include "vocabulary.h"

namespace sluice {

/// Whether a string of the JSON text is open at its end.
inline bool in_string(const std::string& text) {
  bool inside = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      inside = !inside;
    }
  }
  return inside;
}

/// Chooses random allowed tokens, after `free` of them those that close what is open, until the end token. Nothing
/// where that did not come within `limit`, or a position had no token.
inline std::optional<std::string> random_text(const Vocabulary& vocabulary, Constraint c, uint64_t seed, int free = 60,
                                              int limit = 3000) {
  std::mt19937_64 random(seed);
  std::string text;
  for (int i = 0; i < limit; ++i) {
    std::vector<int32_t> ids = vocabulary.allowed(c);
    if (ids.empty()) return {};
    std::shuffle(ids.begin(), ids.end(), random);
    // Long tokens are few among many bytes: prefer them half of the time, so that both kinds are met.
    if (random() % 2) std::stable_partition(ids.begin(), ids.end(), [&](int32_t id) { return id >= 256; });
    if (i >= free) {
      const bool inside = in_string(text);
      const auto rank = [&](int32_t id) {
        static const std::string closing = "}]\"nt0123456789:,f-[{";
        if (id == vocabulary.end_id) return size_t{0};
        const std::string& token = vocabulary.tokens[static_cast<size_t>(id)];
        if (token.size() != 1) return size_t{100};
        if (inside) return size_t{token[0] == '"' ? 1u : token[0] >= 'a' && token[0] <= 'c' ? 2u : 3u};
        return 1 + std::min(closing.find(token[0]), closing.size());
      };
      std::stable_sort(ids.begin(), ids.end(), [&](int32_t x, int32_t y) { return rank(x) < rank(y); });
    }
    const int32_t id = ids.front();
    if (!c.accept(id)) return {};
    if (id == vocabulary.end_id) return text;
    text += vocabulary.tokens[static_cast<size_t>(id)];
  }
  return {};
}

/// Whether the constraint takes `text` byte by byte, and it may end there.
inline bool matches(Constraint c, std::string_view text) {
  for (const char byte : text)
    if (!c.accept(static_cast<uint8_t>(byte))) return false;
  return c.can_end();
}

}  // namespace sluice
