#include "tokenizer/tiktoken.h"

#include <string_view>
#include <unordered_map>

#include "tokenizer/byte_level.h"
#include "tokenizer/named_stages.h"

namespace sluice {
namespace {

std::string symbols_of(std::string_view bytes) {
  std::string symbols;
  for (const char byte : bytes) symbols += byte_symbol(static_cast<uint8_t>(byte));
  return symbols;
}

using Ranks = std::unordered_map<std::string_view, int32_t>;

/// Merges the bytes of a token by the ranks below its own, the leftmost of the lowest first.
std::vector<std::string_view> parts_below(std::string_view token, const Ranks& ranks, int32_t own_rank) {
  std::vector<std::string_view> parts;
  for (size_t i = 0; i < token.size(); ++i) parts.push_back(token.substr(i, 1));
  for (;;) {
    size_t best = parts.size();
    int32_t best_rank = own_rank;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto it = ranks.find({parts[i].data(), parts[i].size() + parts[i + 1].size()});
      if (it == ranks.end() || it->second >= best_rank) continue;
      best = i;
      best_rank = it->second;
    }
    if (best == parts.size()) return parts;
    parts[best] = {parts[best].data(), parts[best].size() + parts[best + 1].size()};
    parts.erase(parts.begin() + static_cast<int64_t>(best) + 1);
  }
}

}  // namespace

TokenizerFile tiktoken_file(const std::vector<std::pair<std::string, int32_t>>& tokens,
                            const std::vector<AddedToken>& added_tokens) {
  TokenizerFile file;
  for (const auto& [bytes, rank] : tokens) file.vocab.emplace_back(symbols_of(bytes), rank);
  file.ignore_merges = true;
  file.merge_by_id = true;
  file.added_tokens = added_tokens;
  file.stages = named_stages("kimi-k2").value();
  return file;
}

std::vector<std::pair<std::string, std::string>> merges_of_ranks(const TokenizerFile& file) {
  std::vector<std::pair<std::string, int32_t>> tokens;
  for (const auto& [symbols, id] : file.vocab)
    if (auto bytes = bytes_of_symbols(symbols)) tokens.emplace_back(*std::move(bytes), id);
  Ranks ranks;
  for (const auto& [bytes, id] : tokens) ranks.emplace(bytes, id);
  std::vector<std::pair<std::string, std::string>> merges;
  for (const auto& [bytes, id] : tokens) {
    const auto parts = parts_below(bytes, ranks, id);
    if (parts.size() == 2) merges.emplace_back(symbols_of(parts[0]), symbols_of(parts[1]));
  }
  return merges;
}

}  // namespace sluice
