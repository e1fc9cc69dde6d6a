// The chat format of DeepSeek-V3 and R1 in its revised form (specification 9.4): tool calls are closed once after the
// last one, and text may stand before them.
#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/json_lines.h"

namespace sluice {

/// One call of a function, as the assistant writes it.
struct ChatToolCall {
  std::string name;
  std::string arguments;  // JSON text
};

/// One message: role (system | user | assistant | tool) and content, and the calls of an assistant.
struct ChatTurn : ChatMessage {
  std::vector<ChatToolCall> tool_calls;
};

/// A rendered chat and what the assistant wrote of it: [begin, end) byte ranges of `text`, in order, each ending after
/// the end-of-sentence token. The ranges begin and end at added tokens, so their ids do not depend on whether the text
/// is encoded in one piece or range by range.
struct ChatText {
  std::string text;
  std::vector<std::pair<size_t, size_t>> assistant;
};

/// The text of a chat, which begins with the begin-of-sentence token: encode it with parse_special and add no bos.
/// System messages are joined with "\n\n" and come first. `add_generation_prompt` appends `<｜Assistant｜>` unless the
/// last message is a tool's. Throws Error for an unknown role and for tool calls of another role than the assistant's.
std::string render_chat(std::span<const ChatTurn> turns, bool add_generation_prompt);

/// The same with the assistant's ranges, for a loss on its tokens only.
ChatText render_chat_spans(std::span<const ChatTurn> turns, bool add_generation_prompt);

/// The same format as Jinja text, for `chat_template` in tokenizer_config.json.
std::string_view chat_template_jinja();

}  // namespace sluice
