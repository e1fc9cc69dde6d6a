#include "grammar/token_trie.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "base/error.h"

namespace sluice {
namespace {

constexpr size_t kMaxTokenBytes = 4096;

/// Whether valid UTF-8 may contain this byte.
bool is_utf8_byte(int b) { return b < 0xC0 || (b >= 0xC2 && b <= 0xF4); }

}  // namespace

TokenTrie::TokenTrie(const Tokenizer& tokenizer) {
  std::vector<std::string_view> tokens(static_cast<size_t>(tokenizer.vocab_size()));
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view bytes = tokenizer.token_bytes(id);
    if (!tokenizer.is_special(id) && tokenizer.id_of(bytes) != id) tokens[static_cast<size_t>(id)] = bytes;
  }
  build(tokens);
}

TokenTrie::TokenTrie(std::span<const std::string_view> tokens) { build(tokens); }

std::string_view TokenTrie::bytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  const size_t i = static_cast<size_t>(id);
  return std::string_view(bytes_.data() + bytes_begin_[i], bytes_begin_[i + 1] - bytes_begin_[i]);
}

void TokenTrie::build(std::span<const std::string_view> tokens) {
  std::array<bool, 256> has_byte{};
  for (const std::string_view token : tokens) {
    if (token.size() > kMaxTokenBytes) fail("tokenizer: expected tokens of at most {} bytes", kMaxTokenBytes);
    if (token.size() == 1) has_byte[static_cast<uint8_t>(token[0])] = true;
    bytes_begin_.push_back(static_cast<uint32_t>(bytes_.size()));
    bytes_.insert(bytes_.end(), token.begin(), token.end());
  }
  bytes_begin_.push_back(static_cast<uint32_t>(bytes_.size()));
  for (int b = 0; b < 256; ++b)
    if (is_utf8_byte(b) && !has_byte[static_cast<size_t>(b)])
      fail("tokenizer: constrained output needs a token for every byte, found none for 0x{:02x}", b);

  ids_.resize(tokens.size());
  std::iota(ids_.begin(), ids_.end(), 0);
  std::erase_if(ids_, [&](int32_t id) { return bytes(id).empty(); });
  std::stable_sort(ids_.begin(), ids_.end(), [&](int32_t a, int32_t b) { return bytes(a) < bytes(b); });

  std::vector<size_t> path;  // the nodes on the way to the last one
  std::string_view last;
  const auto leave = [&](size_t depth) {
    for (; path.size() > depth; path.pop_back()) nodes_[path.back()].end = static_cast<uint32_t>(nodes_.size());
  };
  for (size_t i = 0; i < ids_.size(); ++i) {
    const std::string_view token = bytes(ids_[i]);
    const auto common = std::mismatch(last.begin(), last.end(), token.begin(), token.end()).first - last.begin();
    leave(static_cast<size_t>(common));
    while (path.size() < token.size()) {
      path.push_back(nodes_.size());
      nodes_.push_back({0, static_cast<uint32_t>(i), static_cast<uint16_t>(path.size()),
                        static_cast<uint8_t>(token[path.size() - 1])});
    }
    last = token;
    max_depth_ = std::max(max_depth_, token.size());
  }
  leave(0);
  nodes_.push_back({0, static_cast<uint32_t>(ids_.size()), 0, 0});
}

}  // namespace sluice
