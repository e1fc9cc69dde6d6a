// Tokenizers that come as tokens by rank instead of merges (formats/tiktoken.h), with Kimi's pre-tokenizer.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "formats/tokenizer_json.h"

namespace sluice {

/// The tokenizer of these tokens, whose ids are their ranks, and of the tokens that tokenizer_config.json adds.
TokenizerFile tiktoken_file(const std::vector<std::pair<std::string, int32_t>>& tokens,
                            const std::vector<AddedToken>& added_tokens);

/// Merges that stand for the ranks where a file can hold nothing else: of each token the last pair that becomes it.
/// Text in which other pairs would become the token can be cut in another way with them.
std::vector<std::pair<std::string, std::string>> merges_of_ranks(const TokenizerFile& file);

}  // namespace sluice
