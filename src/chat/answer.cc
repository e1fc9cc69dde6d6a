#include "chat/answer.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

namespace sluice {
namespace {

using Kind = AnswerEvent::Kind;
using State = ThinkingSplitter::State;

// Special in some tokenizers, and then without text for anybody but this parser.
constexpr std::array<std::string_view, 12> kTags = {"<think>",
                                                    "</think>",
                                                    "<｜tool▁calls▁begin｜>",
                                                    "<｜tool▁calls▁end｜>",
                                                    "<｜tool▁call▁begin｜>",
                                                    "<｜tool▁call▁end｜>",
                                                    "<｜tool▁sep｜>",
                                                    "<|tool_calls_section_begin|>",
                                                    "<|tool_calls_section_end|>",
                                                    "<|tool_call_begin|>",
                                                    "<|tool_call_argument_begin|>",
                                                    "<|tool_call_end|>"};

/// Tool tags that nobody reads stay without text.
std::span<const std::string_view> shown_tags(ToolSyntax tools) {
  return std::span(kTags).first(tools == ToolSyntax::none ? 2 : kTags.size());
}

void add_event(Kind kind, std::string_view text, AnswerEvents& events) {
  if (text.empty()) return;
  if (!events.empty() && events.back().kind == kind && kind != Kind::tool_call) {
    events.back().text += text;
  } else {
    events.push_back({kind, std::string(text)});
  }
}

}  // namespace

AnswerParser::AnswerParser(const Tokenizer& tokenizer, const AnswerFormat& format, std::vector<std::string> stops)
    : tokens_(tokenizer, shown_tags(format.tools)),
      thinking_(format.start),
      calls_(format.tools),
      content_(std::move(stops)),
      skip_lines_(!format.continued && format.begun_call.empty() && format.start != State::start) {
  if (!format.begun_call.empty()) calls_.push(format.begun_call, begun_);
}

AnswerEvents AnswerParser::push(int32_t id) {
  AnswerEvents events;
  if (stopped()) return events;
  const Kind before = current();
  add_answer(std::exchange(begun_, {}), events);
  add_text(tokens_.push(id), events);
  section_ = before == Kind::content ? current() : before;
  return events;
}

AnswerEvents AnswerParser::finish() {
  AnswerEvents events;
  if (stopped()) return events;
  add_answer(std::exchange(begun_, {}), events);
  add_text(tokens_.finish(), events);
  const ThinkingSplitter::Parts rest = thinking_.finish();
  add_event(Kind::reasoning, without_lines(rest.thinking), events);
  AnswerEvents answer;
  calls_.push(without_lines(rest.answer), answer);
  calls_.finish(answer);
  add_answer(answer, events);
  if (!stopped()) add_event(Kind::content, content_.finish(), events);
  return events;
}

Kind AnswerParser::current() const {
  return thinking_.is_thinking() ? Kind::reasoning : calls_.in_calls() ? Kind::tool_call : Kind::content;
}

void AnswerParser::add_text(std::string_view text, AnswerEvents& events) {
  const State before = thinking_.state();
  const ThinkingSplitter::Parts parts = thinking_.push(text);
  const bool thinks = before == State::thinking || thinking_.is_thinking() || !parts.thinking.empty();
  if (before == State::start && thinks) skip_lines_ = true;
  add_event(Kind::reasoning, without_lines(parts.thinking), events);
  if (thinks && !thinking_.is_thinking()) skip_lines_ = true;
  AnswerEvents answer;
  calls_.push(without_lines(parts.answer), answer);
  add_answer(answer, events);
}

std::string_view AnswerParser::without_lines(std::string_view text) {
  if (skip_lines_) text.remove_prefix(std::min(text.find_first_not_of("\r\n"), text.size()));
  skip_lines_ = skip_lines_ && text.empty();
  return text;
}

/// Content goes through the stop strings; what comes after one is dropped.
void AnswerParser::add_answer(const AnswerEvents& answer, AnswerEvents& events) {
  for (const AnswerEvent& event : answer) {
    if (stopped()) return;
    if (event.kind == Kind::content) {
      add_event(Kind::content, content_.push(event.text), events);
    } else {
      add_event(Kind::content, content_.finish(), events);  // no stop string reaches across a call
      events.push_back(event);
    }
  }
}

}  // namespace sluice
