// A conversation that has become too long for the context.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "chat/messages.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

/// A chat cut to size, and the ids of its prompt.
struct FittedChat {
  std::vector<ChatTurn> turns;
  std::vector<int32_t> ids;
  AnswerFormat answer;  // how to read what follows them
  int64_t dropped = 0;  // messages left out
};

/// Leaves out the oldest messages until the prompt takes at most `most` tokens: always up to a message of the user, so
/// that no answer stays without its question. System messages and everything from the user's last message on stay: the
/// result may still be longer. Throws Error as make_chat_request() and ChatFormat::prompt().
FittedChat fit_chat(std::span<const ChatTurn> turns, const ChatFormat& format, const Tokenizer& tokenizer,
                    int64_t most);

}  // namespace sluice
