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

/// The syntax of the calls that a chat template speaks of; none where it knows no calls, or others.
ToolSyntax tool_syntax_of(std::string_view chat_template);

/// The text that tells a model which functions it may call and how; it goes into the system message of DeepSeek's
/// templates, which have no slot for tools. `tools`: as in a request, [{"type": "function", "function": {...}}].
/// `fenced`: calls as of V3 and R1, else as of V3.1, whose model card asks for this text.
std::string tool_announcement(const OrderedJson& tools, bool fenced);

/// The beginning of an answer that calls `function`, or any function where that is empty: for tool_choice. Not for
/// ToolSyntax::none.
std::string begun_call(ToolSyntax syntax, std::string_view function, bool fenced);

/// Reads an answer (after its thinking) that arrives in pieces. Text outside of calls is content; the tags, and white
/// space before the first tag, belong to nothing. A call that is malformed before its name is known becomes content as
/// it was written; one that breaks off later keeps what it has. Calls without arguments get "{}". What may be the
/// beginning of a tag is held back, and white space that may stand before one.
class ToolCallParser {
 public:
  explicit ToolCallParser(ToolSyntax syntax);

  /// Appends to `events` what is certain after one more piece.
  void push(std::string_view piece, AnswerEvents& events);
  /// The end of the text: what was held back.
  void finish(AnswerEvents& events);

  /// Whether the text is inside of calls now.
  bool in_calls() const { return state_ != State::content; }

  /// The tags of a syntax.
  struct Tags {
    std::string_view section_begin, section_end, call_begin, separator, call_end;
  };

 private:
  /// In `between`: the section has begun, no call is open. In `head`: before the name is known.
  enum class State : uint8_t { content, between, head, fence, arguments };

  bool step(bool end, AnswerEvents& events);
  bool step_content(bool end, AnswerEvents& events);
  bool step_between(bool end);
  bool step_head(bool end, AnswerEvents& events);
  bool step_fence(bool end);
  bool step_arguments(bool end, AnswerEvents& events);
  void begin_call(std::string_view name, size_t used, bool fenced, AnswerEvents& events);
  bool give_up_head(size_t used, AnswerEvents& events);
  void enter(std::string_view tag);
  void add_content(std::string_view text, AnswerEvents& events) const;
  void add_arguments(std::string_view text, AnswerEvents& events);

  ToolSyntax syntax_;
  const Tags* tags_;
  State state_ = State::content;
  int num_calls_ = 0;           // begun so far, by their name
  bool fenced_ = false;         // the open call's arguments stand in a ```json fence
  bool has_arguments_ = false;  // the open call has some
  std::string held_;
  size_t scanned_ = 0;  // of held_, in content and arguments: without any part of a tag, and nothing of it is certain
};

}  // namespace sluice
