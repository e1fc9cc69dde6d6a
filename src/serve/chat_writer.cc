#include "serve/chat_writer.h"

#include <fmt/format.h>

#include "serve/kept_logprobs.h"

namespace sluice {
namespace {

using Kind = AnswerEvent::Kind;

/// The members of an entry, as text: a response has very many of these, and the scheduler waits for it.
std::string logprob_members(const Tokenizer& tokenizer, const TokenLogprob& t) {
  const std::string_view bytes = tokenizer.token_bytes(t.id);
  const std::vector<uint8_t> numbers(bytes.begin(), bytes.end());
  return fmt::format(R"("token":{},"logprob":{},"bytes":[{}])", json_text(shown_token(bytes)),
                     json_text(finite_logprob(t.logprob)), fmt::join(numbers, ","));
}

/// Adds a token with its alternatives.
void add_token_entry(std::string& out, const Tokenizer& tokenizer, const TokenLogprobs& t) {
  out += '{' + logprob_members(tokenizer, t.token) + R"(,"top_logprobs":[)";
  for (size_t i = 0; i < t.top.size(); ++i) out += (i > 0 ? ",{" : "{") + logprob_members(tokenizer, t.top[i]) + '}';
  out += "]}";
}

OrderedJson function_of(const std::string& name, const std::string& arguments) {
  return {{"name", name}, {"arguments", arguments}};
}

}  // namespace

ChatWriter::ChatWriter(const Tokenizer& tokenizer, ChatWriterOptions options)
    : tokenizer_(tokenizer),
      options_(std::move(options)),
      frame_(options_.head, options_.head.stream ? "chat.completion.chunk" : "chat.completion") {
  answers_.reserve(options_.num_texts);
  for (size_t i = 0; i < options_.num_texts; ++i)
    answers_.push_back({AnswerParser(tokenizer, options_.format, options_.stops)});
}

bool ChatWriter::token(size_t index, const GeneratedToken& token) {
  Answer& a = answers_[index];
  const AnswerEvents events = a.parser.push(token.id);
  ++usage_.completion;
  usage_.reasoning += a.parser.section() == Kind::reasoning;
  if (token.logprobs) note_logprobs(a, *token.logprobs);
  apply(a, events);
  return !a.parser.stopped() && !a.enough_calls;
}

void ChatWriter::finished(size_t index, const RequestResult& result, std::string& out) {
  Answer& a = answers_[index];
  apply(a, a.parser.finish());
  take(index, out);
  const bool cut_off = result.finish == Finish::max_tokens || result.finish == Finish::context_full;
  a.finish_reason = cut_off ? "length" : a.calls.empty() ? "stop" : "tool_calls";
  usage_.add(result, index == 0);
  if (options_.head.stream) put(index, OrderedJson::object(), out, a.finish_reason.c_str());
}

/// Adds to what the answer has, or what is to be sent of it.
void ChatWriter::apply(Answer& a, const AnswerEvents& events) {
  for (const AnswerEvent& e : events) {
    if (a.enough_calls) return;
    if (e.kind == Kind::tool_call && e.call > 0 && !options_.parallel_calls) {
      a.enough_calls = true;
      return;
    }
    if (options_.head.stream) {
      const bool goes_on = !a.pending.empty() && a.pending.back().kind == e.kind && a.pending.back().call == e.call;
      if (goes_on) {
        a.pending.back().text += e.text;
      } else {
        a.pending.push_back(e);
      }
    } else if (e.kind == Kind::tool_call) {
      add_call(a, e);
    } else {
      (e.kind == Kind::content ? a.content : a.reasoning) += e.text;
    }
  }
}

void ChatWriter::take(std::string& out) {
  for (size_t i = 0; i < answers_.size(); ++i) take(i, out);
}

void ChatWriter::take(size_t index, std::string& out) {
  Answer& a = answers_[index];
  for (const AnswerEvent& e : std::exchange(a.pending, {})) put(index, delta_of(a, e), out);
}

OrderedJson ChatWriter::delta_of(Answer& a, const AnswerEvent& e) {
  if (e.kind == Kind::tool_call) return {{"tool_calls", OrderedJson::array({add_call(a, e)})}};
  if (e.kind == Kind::content) return {{"content", e.text}};
  return {{"content", nullptr}, {"reasoning_content", e.text}};
}

/// The call's delta in a stream: its name once, with the beginning of its arguments, then pieces of these.
OrderedJson ChatWriter::add_call(Answer& a, const AnswerEvent& e) {
  const size_t number = static_cast<size_t>(e.call);
  if (number < a.calls.size()) {
    if (!options_.head.stream) a.calls[number].arguments += e.text;
    return {{"index", e.call}, {"function", {{"arguments", e.text}}}};
  }
  const size_t answer = static_cast<size_t>(&a - answers_.data());
  a.calls.push_back({fmt::format("call_{}_{}_{}", options_.head.id, answer, number), e.name, e.text});
  const Call& call = a.calls.back();
  return {{"index", e.call}, {"id", call.id}, {"type", "function"}, {"function", function_of(call.name, e.text)}};
}

void ChatWriter::note_logprobs(Answer& a, const TokenLogprobs& t) {
  const Kind section = a.parser.section();
  if (section == Kind::tool_call) return;
  count_logprobs(kept_logprobs_, t);
  (section == Kind::content ? a.logprobs.content : a.logprobs.reasoning).push_back(t);
}

std::string ChatWriter::take_logprobs(Answer& a) {
  if (!options_.logprobs) return "null";
  const Logprobs l = std::exchange(a.logprobs, {});
  for (const auto* tokens : {&l.content, &l.reasoning})
    for (const TokenLogprobs& t : *tokens) kept_logprobs_ -= 1 + t.top.size();
  std::string out = R"({"content":)" + list_of(l.content) + R"(,"refusal":null)";
  if (!l.reasoning.empty()) out += R"(,"reasoning_content":)" + list_of(l.reasoning);
  return out + "}";
}

std::string ChatWriter::list_of(const std::vector<TokenLogprobs>& tokens) const {
  std::string out = "[";
  for (const TokenLogprobs& t : tokens) {
    if (out.size() > 1) out += ',';
    add_token_entry(out, tokenizer_, t);
  }
  return out + "]";
}

/// One event of a stream; the first of each answer is preceded by one that tells its role.
void ChatWriter::put(size_t index, const OrderedJson& delta, std::string& out, const char* finish_reason) {
  Answer& a = answers_[index];
  if (!std::exchange(a.begun, true))
    out += frame_.event(choice_text(index, "delta", R"({"role":"assistant","content":""})", "null", nullptr), "null");
  out += frame_.event(choice_text(index, "delta", json_text(delta), take_logprobs(a), finish_reason), "null");
}

void ChatWriter::end(std::string& out) {
  if (!options_.head.stream) return;
  if (options_.head.include_usage) out += frame_.event("", json_text(usage_.json()));
  out += kDoneEvent;
}

OrderedJson ChatWriter::message(const Answer& a) const {
  OrderedJson m = {{"role", "assistant"}, {"content", a.content}, {"refusal", nullptr}};
  if (a.content.empty() && !a.calls.empty()) m["content"] = nullptr;
  if (!a.reasoning.empty()) m["reasoning_content"] = a.reasoning;
  for (const Call& call : a.calls)
    m["tool_calls"].push_back(
        {{"id", call.id}, {"type", "function"}, {"function", function_of(call.name, call.arguments)}});
  return m;
}

std::string ChatWriter::body() {
  std::string choices;
  for (size_t i = 0; i < answers_.size(); ++i) {
    Answer& a = answers_[i];
    if (i > 0) choices += ',';
    choices += choice_text(i, "message", json_text(message(a)), take_logprobs(a), a.finish_reason.c_str());
  }
  return frame_.response(choices, json_text(usage_.json()));
}

}  // namespace sluice
