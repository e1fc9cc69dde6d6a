// From a request to the ids of its prompt.
#pragma once
#include <cstdint>
#include <vector>

#include "chat/messages.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

struct EncodedPrompt {
  std::vector<int32_t> ids;
  AnswerFormat answer;
};

/// `request` as ChatFormat::prompt renders it, in ids. What a user or a tool says cannot forge turns: text of theirs
/// that reads like one of the tokenizer's added tokens (`<｜Assistant｜>` ...) is encoded as ordinary text. Throws
/// Error as ChatFormat::prompt, and "messages: ..." for what the tokenizer cannot encode.
EncodedPrompt encode_prompt(const ChatFormat& format, const Tokenizer& tokenizer, ChatRequest request, int64_t now);

}  // namespace sluice
