// Tokenizers in the metadata of GGUF files (`tokenizer.*`, specification 10.5).
#pragma once
#include <optional>

#include "formats/gguf_writer.h"
#include "formats/hf_config.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

/// The byte-level BPE tokenizer and the chat template of a file; none when it has no tokenizer (or
/// the model "none"). Tokens of the types
/// control and unknown are special, unused ones have no text. Throws Error naming file and key: another model than
/// "gpt2", a pre-tokenizer that is not known (tokenizer/named_stages.h), text that is not UTF-8, ids out of range.
std::optional<TokenizerData> read_gguf_tokenizer(const GgufMetadata& metadata);

/// Adds the keys for `data` (none: for a model without a tokenizer). Ids without a token, up to the vocabulary of
/// `config`, become unused tokens. Throws Error when GGUF cannot say it: a pre-tokenizer without a name, added tokens
/// that eat white space, ids beyond the vocabulary.
void add_gguf_tokenizer(GgufMetadataBuilder& metadata, const std::optional<TokenizerData>& data,
                        const HfConfig& config);

}  // namespace sluice
