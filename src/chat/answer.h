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
  /// Whether the prompt has begun (R1: "<think>\n") or ended (V3.1: "</think>") a thinking section.
  ThinkingSplitter::State start = ThinkingSplitter::State::start;
  /// A message of the request is continued, so that nothing is dropped at the beginning of the answer.
  bool continued = false;
  /// The beginning of a call which stands at the end of the prompt, because the request demands it.
  std::string begun_call{};
};

/// Reads one answer. Stop strings end it where they are found in the content; thinking and calls may contain them.
/// Line breaks at the beginning of the thinking, and at that of the content after thinking, are dropped.
class AnswerParser {
 public:
  /// `stops`: as TextStream's. `tokenizer` must outlive the parser.
  AnswerParser(const Tokenizer& tokenizer, const AnswerFormat& format, std::vector<std::string> stops);

  /// What is certain after the next token, in order; mostly one event, none while characters, tags or stop strings
  /// may still come of it. A call that the prompt has begun comes with the first token. After stopped() always none.
  AnswerEvents push(int32_t id);
  /// The end of the answer: what was held back.
  AnswerEvents finish();

  /// What the last token belonged to, for counting the tokens of the reasoning; a tag belongs to what it ends, or else
  /// to what it begins.
  AnswerEvent::Kind section() const { return section_; }
  /// Whether a stop string was found.
  bool stopped() const { return content_.stopped(); }

 private:
  void add_text(std::string_view text, AnswerEvents& events);
  void add_answer(const AnswerEvents& answer, AnswerEvents& events);
  std::string_view without_lines(std::string_view text);
  AnswerEvent::Kind current() const;

  TokenText tokens_;
  ThinkingSplitter thinking_;
  ToolCallParser calls_;
  StopFilter content_;
  AnswerEvent::Kind section_ = AnswerEvent::Kind::content;
  AnswerEvents begun_;       // of a call that the prompt has begun, for the first push
  bool skip_lines_ = false;  // line breaks that come now belong to nothing
};

}  // namespace sluice
