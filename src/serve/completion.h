// A request for the continuation of a text, or for what is missing in its middle.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "serve/text_request.h"

namespace sluice {

/// Text, or the ids of its tokens.
using CompletionPrompt = std::variant<std::string, std::vector<int32_t>>;

struct Completion {
  TextRequest text;
  std::vector<CompletionPrompt> prompts;  // at least one
  std::optional<std::string> suffix;      // what follows the text to be written: fill-in-the-middle
  std::optional<int64_t> top_logprobs;    // log probabilities are wanted, with so many alternatives each
  bool echo = false;                      // the prompt is to stand before the text
};

/// OpenAI's default length of a completion.
constexpr int64_t kCompletionTokens = 16;

/// Reads the body of a request. `defaults` as in parse_text_request(), but for its max_tokens. Throws ApiError.
Completion parse_completion(const OrderedJson& body, const GenerateOptions& defaults);

}  // namespace sluice
