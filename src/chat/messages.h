// From the messages of a request to the text of a prompt.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "chat/answer.h"
#include "chat/jinja.h"
#include "formats/json.h"
#include "formats/tokenizer_json.h"
#include "tokenizer/chat_template.h"

namespace sluice {

/// `tool_choice` of a request.
struct ToolChoice {
  enum class Kind : uint8_t { none, automatic, required, function } kind = Kind::none;
  std::string function{};  // the name, for Kind::function
};

/// The parts of a request that make the prompt, valid and in one form.
struct ChatRequest {
  /// Objects as templates expect them: `role`, `content` (a string, or null beside tool_calls), `reasoning_content`
  /// (assistant, a string, where there is some), `tool_calls` ([{id, type, function: {name, arguments: string}}]),
  /// `tool_call_id`, `name`, `prefix` (true in the last message, where it is to be continued).
  OrderedJson messages = OrderedJson::array();
  OrderedJson tools = OrderedJson::array();  // [{"type": "function", "function": {name, description, parameters}}]
  ToolChoice tool_choice;
  std::optional<bool> thinking;                            // nothing: the template's own choice
  OrderedJson template_arguments = OrderedJson::object();  // further variables (`chat_template_kwargs`)
};

/// Reads `messages`, `tools`, `tool_choice`, `thinking` ({"type": "enabled" | "disabled"}) and `chat_template_kwargs`
/// of a request's body, an object; other fields are the caller's. Throws Error "messages[2].content: expected ...,
/// found
/// ...": up to the first ": " it is the path of the field.
ChatRequest parse_chat_request(const OrderedJson& body);

/// The request of a conversation that is not one of JSON. Throws Error for an unknown role.
ChatRequest make_chat_request(std::span<const ChatTurn> turns);

/// A prompt and how its answer is to be read.
struct ChatPrompt {
  std::string text;  // begins with the begin token where the template says so: encode with parse_special, add no bos
  AnswerFormat answer;
};

/// How one checkpoint wants to be talked to. Immutable.
class ChatFormat {
 public:
  /// Of config.chat_template with the tokens of `config`; `name` is the file's name in messages. Throws Error as
  /// ChatTemplate does.
  explicit ChatFormat(const TokenizerConfig& config, const std::string& name = "tokenizer_config.json");

  /// Whether there is no template: a base model, which completes text and cannot chat.
  bool is_base() const { return !template_; }
  /// Whether the template itself announces tools; else tool_announcement() goes into the system message.
  bool has_tools_slot() const { return tools_slot_; }
  /// Whether thinking can be switched (V3.1: the variable `thinking`).
  bool has_thinking_switch() const { return !thinking_variable_.empty(); }

  /// Renders `request`; `now` as in ChatTemplate::render. Throws Error with the field first for what the template
  /// cannot express (thinking without a switch, tools with a template that has none, is_base()) or refuses.
  ChatPrompt prompt(const ChatRequest& request, int64_t now = 0) const;

 private:
  std::optional<ChatTemplate> template_;
  std::string bos_, eos_;
  OrderedJson context(const ChatRequest& request) const;
  void append_answer_start(const ChatRequest& request, ChatPrompt& prompt) const;

  ToolSyntax syntax_ = ToolSyntax::none;
  bool tools_slot_ = false;
  bool writes_calls_ = false;       // the template has the calls of earlier turns
  bool fenced_ = false;             // DeepSeek's calls in the form of V3
  bool arguments_as_json_ = false;  // the template writes the arguments of calls as JSON itself
  std::string thinking_variable_;   // "thinking", "enable_thinking" or none
};

}  // namespace sluice
