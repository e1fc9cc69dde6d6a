#include "serve/chat_writer.h"

#include <fmt/format.h>

namespace sluice {
namespace {

using Kind = AnswerEvent::Kind;

OrderedJson logprob_entry(const Tokenizer& tokenizer, const TokenLogprob& t) {
  const std::string_view bytes = tokenizer.token_bytes(t.id);
  OrderedJson numbers = OrderedJson::array();
  for (const char c : bytes) numbers.push_back(static_cast<uint8_t>(c));
  return {{"token", shown_token(bytes)}, {"logprob", finite_logprob(t.logprob)}, {"bytes", std::move(numbers)}};
}

OrderedJson function_of(const std::string& name, const std::string& arguments) {
  return {{"name", name}, {"arguments", arguments}};
}

}  // namespace

ChatWriter::ChatWriter(const Tokenizer& tokenizer, ChatWriterOptions options)
    : tokenizer_(tokenizer), options_(std::move(options)), frame_(chunk(nullptr), "choices") {
  answers_.reserve(options_.num_texts);
  for (size_t i = 0; i < options_.num_texts; ++i)
    answers_.push_back({AnswerParser(tokenizer, options_.format, options_.stops)});
}

bool ChatWriter::token(size_t index, const GeneratedToken& token, std::string& out) {
  Answer& a = answers_[index];
  const AnswerEvents events = a.parser.push(token.id);
  ++usage_.completion;
  usage_.reasoning += a.parser.section() == Kind::reasoning;
  if (token.logprobs) note_logprobs(a, *token.logprobs);
  apply(index, events, out);
  return !a.parser.stopped() && !a.enough_calls;
}

void ChatWriter::finished(size_t index, const RequestResult& result, std::string& out) {
  Answer& a = answers_[index];
  apply(index, a.parser.finish(), out);
  const bool cut_off = result.finish == Finish::max_tokens || result.finish == Finish::context_full;
  a.finish_reason = cut_off ? "length" : a.calls.empty() ? "stop" : "tool_calls";
  usage_.add(result, index == 0);
  if (options_.head.stream) put(index, OrderedJson::object(), out, a.finish_reason.c_str());
}

/// Adds to what the answer has, or sends it.
void ChatWriter::apply(size_t index, const AnswerEvents& events, std::string& out) {
  Answer& a = answers_[index];
  for (const AnswerEvent& e : events) {
    if (a.enough_calls) return;
    if (e.kind == Kind::tool_call && e.call > 0 && !options_.parallel_calls) {
      a.enough_calls = true;
      return;
    }
    OrderedJson delta;
    if (e.kind == Kind::tool_call) {
      delta = {{"tool_calls", OrderedJson::array({add_call(a, e)})}};
    } else if (e.kind == Kind::content) {
      delta = {{"content", e.text}};
    } else {
      delta = {{"content", nullptr}, {"reasoning_content", e.text}};
    }
    if (options_.head.stream) {
      put(index, std::move(delta), out);
    } else if (e.kind != Kind::tool_call) {
      (e.kind == Kind::content ? a.content : a.reasoning) += e.text;
    }
  }
}

/// The call's delta in a stream: its name once, then pieces of its arguments.
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
  OrderedJson entry = logprob_entry(tokenizer_, t.token);
  OrderedJson top = OrderedJson::array();
  for (const TokenLogprob& other : t.top) top.push_back(logprob_entry(tokenizer_, other));
  entry["top_logprobs"] = std::move(top);
  (section == Kind::content ? a.logprobs.content : a.logprobs.reasoning).push_back(std::move(entry));
}

OrderedJson ChatWriter::take_logprobs(Answer& a) {
  if (!options_.logprobs) return nullptr;
  Logprobs l = std::exchange(a.logprobs, {});
  OrderedJson out = {{"content", std::move(l.content)}, {"refusal", nullptr}};
  if (!l.reasoning.empty()) out["reasoning_content"] = std::move(l.reasoning);
  return out;
}

/// One event of a stream; the first of each answer is preceded by one that tells its role.
void ChatWriter::put(size_t index, OrderedJson delta, std::string& out, const char* finish_reason) {
  Answer& a = answers_[index];
  const auto choice = [&](OrderedJson what, OrderedJson logprobs, OrderedJson finish) {
    return OrderedJson::array({{{"index", index},
                                {"delta", std::move(what)},
                                {"logprobs", std::move(logprobs)},
                                {"finish_reason", std::move(finish)}}});
  };
  if (!std::exchange(a.begun, true))
    out += frame_.event(choice({{"role", "assistant"}, {"content", ""}}, nullptr, nullptr));
  OrderedJson finish = nullptr;
  if (finish_reason) finish = finish_reason;
  out += frame_.event(choice(std::move(delta), take_logprobs(a), std::move(finish)));
}

OrderedJson ChatWriter::chunk(OrderedJson choices) const {
  const ResponseHead& h = options_.head;
  OrderedJson c = {{"id", h.id},       {"object", "chat.completion.chunk"}, {"created", h.created},
                   {"model", h.model}, {"system_fingerprint", nullptr},     {"choices", std::move(choices)}};
  if (h.include_usage) c["usage"] = nullptr;
  return c;
}

void ChatWriter::end(std::string& out) {
  if (!options_.head.stream) return;
  if (options_.head.include_usage) {
    OrderedJson last = chunk(OrderedJson::array());
    last["usage"] = usage_.json();
    out += json_event(last);
  }
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
  OrderedJson choices = OrderedJson::array();
  for (size_t i = 0; i < answers_.size(); ++i)
    choices.push_back({{"index", i},
                       {"message", message(answers_[i])},
                       {"logprobs", take_logprobs(answers_[i])},
                       {"finish_reason", answers_[i].finish_reason}});
  const ResponseHead& h = options_.head;
  return json_text({{"id", h.id},
                    {"object", "chat.completion"},
                    {"created", h.created},
                    {"model", h.model},
                    {"system_fingerprint", nullptr},
                    {"choices", std::move(choices)},
                    {"usage", usage_.json()}});
}

}  // namespace sluice
