// Pre-tokenizers by the names that GGUF files give them (`tokenizer.ggml.pre`), instead of their regexes.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer_json.h"

namespace sluice {

/// The stages of "deepseek-v3", "deepseek-llm" (V2), "deepseek-coder" or "kimi-k2" (Moonlight too); none for any other
/// name. Written so that the `tokenizers` package reads them, too.
std::optional<std::vector<PreTokenizerStage>> named_stages(std::string_view name);

/// The name of such stages, where they have one.
std::optional<std::string_view> name_of_stages(const std::vector<PreTokenizerStage>& stages);

/// All names, for messages: "deepseek-v3, deepseek-llm, ...".
std::string known_stage_names();

}  // namespace sluice
