// A request for the next message of a conversation.
#pragma once
#include <optional>
#include <string>

#include "chat/messages.h"
#include "serve/text_request.h"

namespace sluice {

/// `response_format`.
struct ResponseFormat {
  enum class Kind : uint8_t { text, json_object, json_schema } kind = Kind::text;
  std::string schema{};  // of json_schema: JSON text, its keys in the client's order
};

struct ChatCompletion {
  TextRequest text;
  ChatRequest chat;
  ResponseFormat format;
  std::optional<int64_t> top_logprobs;  // log probabilities are wanted, with so many alternatives each
  bool parallel_calls = true;           // false: the answer ends after its first call
};

/// Reads the body of a request. `defaults` as in parse_text_request(). Throws ApiError.
ChatCompletion parse_chat_completion(const OrderedJson& body, const GenerateOptions& defaults);

}  // namespace sluice
