#include "chat/fit.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "chat/prompt.h"

namespace sluice {
namespace {

bool is_users(const ChatTurn& turn) { return turn.role == "user"; }
bool is_systems(const ChatTurn& turn) { return turn.role == "system"; }

/// Removes the messages before the second of the user, but for the system's. False when the user has only one.
bool drop_oldest(FittedChat& chat) {
  const auto end = chat.turns.end(), first = std::find_if(chat.turns.begin(), end, is_users);
  const auto second = first == end ? end : std::find_if(first + 1, end, is_users);
  if (second == end) return false;
  const auto kept = std::stable_partition(chat.turns.begin(), second, is_systems);
  chat.dropped += second - kept;
  chat.turns.erase(kept, second);
  return true;
}

}  // namespace

FittedChat fit_chat(std::span<const ChatTurn> turns, const ChatFormat& format, const Tokenizer& tokenizer,
                    int64_t most) {
  FittedChat chat{{turns.begin(), turns.end()}, {}, {}, 0};
  do {
    EncodedPrompt prompt = encode_prompt(format, tokenizer, make_chat_request(chat.turns), std::time(nullptr));
    chat.ids = std::move(prompt.ids);
    chat.answer = std::move(prompt.answer);
  } while (static_cast<int64_t>(chat.ids.size()) > most && drop_oldest(chat));
  return chat;
}

}  // namespace sluice
