// Tool calls: how tools are announced to a model whose template does not do it, and how its calls are read.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "chat/answer_event.h"
#include "formats/json.h"

namespace sluice {

/// How a model writes tool calls.
enum class ToolSyntax : uint8_t {
  none,      // not at all: everything is content
  deepseek,  // <｜tool▁calls▁begin｜>...: V3 and R1 with fenced JSON, V3.1 without; either is understood
  kimi,      // <|tool_calls_section_begin|>... of Kimi-K2
};

/// The syntax that a chat template writes calls of earlier turns in; deepseek where it writes none.
ToolSyntax tool_syntax_of(std::string_view chat_template);

/// The text that tells a model of the V3 format which functions it may call and how. It goes to the end of the system
/// message of templates without a slot for tools. `tools`: as in a request, [{"type": "function", "function": {...}}].
std::string tool_announcement(const OrderedJson& tools);

/// The beginning of an answer that calls `function`, or any function where that is empty: for tool_choice. `fenced` is
/// V3's form of the DeepSeek syntax. Not for ToolSyntax::none.
std::string begun_call(ToolSyntax syntax, std::string_view function, bool fenced);

/// Reads an answer (after its thinking) that arrives in pieces. Text outside of calls is content; the tags, and white
/// space before a tag, belong to nothing. A call that is malformed before its name is known becomes content as it was
/// written; one that breaks off later keeps what it has. What may be the beginning of a tag is held back, no more.
class ToolCallParser {
 public:
  explicit ToolCallParser(ToolSyntax syntax) : syntax_(syntax) {}

  /// Appends to `events` what is certain after one more piece.
  void push(std::string_view piece, AnswerEvents& events);
  /// The end of the text: what was held back.
  void finish(AnswerEvents& events);

  /// Calls begun so far, by their name.
  int num_calls() const { return num_calls_; }
  /// Whether the text is inside of calls now.
  bool in_calls() const { return state_ != State::content; }
  /// What was wrong with the calls, on one line; empty when nothing was.
  const std::string& problem() const { return problem_; }

 private:
  enum class State : uint8_t { content, between, head, arguments };

  ToolSyntax syntax_;
  State state_ = State::content;
  int num_calls_ = 0;
  std::string held_;
  std::string problem_;
};

}  // namespace sluice
