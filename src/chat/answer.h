// From the tokens of an answer to reasoning, content and tool calls: the one way, for the server and the terminal.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "chat/answer_event.h"
#include "chat/text_stream.h"
#include "chat/thinking.h"
#include "chat/tools.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

/// How an answer is to be read; comes with its prompt (chat/messages.h).
struct AnswerFormat {
  ToolSyntax tools = ToolSyntax::none;
  /// The beginning of the answer, which stands at the end of the prompt: "<think>\n" of R1, "</think>" of V3.1, the
  /// message to be continued, a call the request demands. It is read first. Its reasoning and content are not
  /// reported again; calls that it begins are.
  std::string begun;
};

/// Reads one answer. Stop strings end it where they are found in the content; thinking and calls may contain them.
/// The newlines right after <think> and </think> belong to nothing.
class AnswerParser {
 public:
  /// `stops`: as TextStream's. `tokenizer` must outlive the parser.
  AnswerParser(const Tokenizer& tokenizer, const AnswerFormat& format, std::vector<std::string> stops);

  /// What is certain after the next token, in order; mostly one event, none while characters, tags or stop strings
  /// may still come of it. After stopped() always none.
  AnswerEvents push(int32_t id);
  /// The end of the answer: what was held back.
  AnswerEvents finish();

  /// What the last token belonged to: for counting the tokens of the reasoning. Tags belong to the section they end,
  /// or to the one they begin where none was.
  AnswerEvent::Kind section() const { return section_; }
  /// Whether a stop string was found.
  bool stopped() const { return content_.stopped(); }
  /// Calls so far; finish_reason is "tool_calls" when there are any.
  int num_calls() const { return calls_.num_calls(); }
  /// What was malformed, on one line, for a log; empty when nothing was.
  const std::string& problem() const { return calls_.problem(); }

 private:
  void read(std::string_view text, AnswerEvents& events);
  void add_answer(std::string_view text, AnswerEvents& events);
  void add_reasoning(std::string_view text, AnswerEvents& events);

  TokenText tokens_;
  ThinkingSplitter thinking_;
  ToolCallParser calls_;
  StopFilter content_;
  AnswerEvent::Kind section_ = AnswerEvent::Kind::content;
  AnswerEvents begun_;  // calls of format.begun, for the first push
  bool skip_newlines_ = false;
};

}  // namespace sluice
