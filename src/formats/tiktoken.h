// tiktoken.model: the tokens of a byte-level BPE tokenizer by rank, one "BASE64 RANK" a line (Moonlight, Kimi-K2).
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice {

/// Bytes and rank of each token, in the order of ranks. Ranks are unique and in [0, kMaxTokenizerIds), tokens unique,
/// of 1 to 1024 bytes. Throws Error "<name>: line N: expected ..., found ...".
std::vector<std::pair<std::string, int32_t>> parse_tiktoken(std::string_view text, const std::string& name);

}  // namespace sluice
