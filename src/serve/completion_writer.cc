#include "serve/completion_writer.h"

#include <fmt/format.h>

#include <algorithm>

namespace sluice {
namespace {

int64_t num_characters(std::string_view utf8) {
  return std::count_if(utf8.begin(), utf8.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; });
}

/// A token as OpenAI names it: its text, or "bytes:\xf0\x9f" where that is no whole characters.
std::string token_name(std::string_view bytes) {
  if (shown_token(bytes) == bytes) return std::string(bytes);
  std::string name = "bytes:";
  for (const char c : bytes) name += fmt::format("\\x{:02x}", static_cast<uint8_t>(c));
  return name;
}

}  // namespace

CompletionWriter::CompletionWriter(const Tokenizer& tokenizer, std::vector<std::vector<int32_t>> prompts,
                                   CompletionWriterOptions options)
    : tokenizer_(tokenizer), prompts_(std::move(prompts)), options_(std::move(options)), frame_(chunk(), "choices") {
  const size_t num_texts = prompts_.size() * options_.texts_per_prompt;
  for (size_t i = 0; i < num_texts; ++i)
    texts_.push_back({.stream = TextStream(tokenizer, options_.stops), .noted = TokenText(tokenizer)});
}

/// The prompt, before the first token of a text that echoes it. Its own first token has no probability.
void CompletionWriter::begin(size_t index) {
  Text& t = texts_[index];
  if (!options_.echo || std::exchange(t.echoed, true)) return;
  const std::vector<int32_t>& ids = prompt_of(index);
  t.text = shown_token(tokenizer_.decode(ids, true));
  if (options_.logprobs && !ids.empty()) note(t, ids[0], nullptr);
}

void CompletionWriter::prompt(size_t index, std::span<const TokenLogprobs> logprobs) {
  begin(index);
  for (const TokenLogprobs& l : logprobs) note(texts_[index], l.token.id, &l);
}

bool CompletionWriter::token(size_t index, const GeneratedToken& token, std::string& out) {
  begin(index);
  Text& t = texts_[index];
  ++usage_.completion;
  if (token.index == 0) t.offset += num_characters(t.noted.finish());  // of the prompt: the text begins anew after it
  if (token.logprobs) note(t, token.id, token.logprobs);
  put(index, t.stream.push(token.id), out);
  return !t.stream.stopped();
}

void CompletionWriter::finished(size_t index, const RequestResult& result, std::string& out) {
  begin(index);
  Text& t = texts_[index];
  const bool cut_off = result.finish == Finish::max_tokens || result.finish == Finish::context_full;
  t.finish_reason = cut_off ? "length" : "stop";
  usage_.add(result, index % options_.texts_per_prompt == 0);
  put(index, t.stream.finish(), out, t.finish_reason.c_str());
}

void CompletionWriter::note(Text& t, int32_t id, const TokenLogprobs* l) {
  t.logprobs.tokens.push_back(token_name(tokenizer_.token_bytes(id)));
  t.logprobs.text_offset.push_back(t.offset);
  t.offset += num_characters(t.noted.push(id));
  OrderedJson top = nullptr;
  if (l) {
    top = OrderedJson::object();
    for (const TokenLogprob& other : l->top)
      top[token_name(tokenizer_.token_bytes(other.id))] = finite_logprob(other.logprob);
  }
  t.logprobs.token_logprobs.push_back(l ? OrderedJson(finite_logprob(l->token.logprob)) : OrderedJson(nullptr));
  t.logprobs.top_logprobs.push_back(std::move(top));
}

/// Keeps a piece, or sends it together with what is kept.
void CompletionWriter::put(size_t index, const std::string& piece, std::string& out, const char* finish_reason) {
  Text& t = texts_[index];
  t.text += piece;
  if (!options_.head.stream || (t.text.empty() && !finish_reason)) return;
  OrderedJson finish = nullptr;
  if (finish_reason) finish = finish_reason;
  out += frame_.event(OrderedJson::array({{{"index", index},
                                           {"text", std::exchange(t.text, {})},
                                           {"logprobs", take_logprobs(t)},
                                           {"finish_reason", std::move(finish)}}}));
}

OrderedJson CompletionWriter::take_logprobs(Text& t) {
  if (!options_.logprobs) return nullptr;
  Logprobs l = std::exchange(t.logprobs, {});
  return {{"tokens", std::move(l.tokens)},
          {"token_logprobs", std::move(l.token_logprobs)},
          {"top_logprobs", std::move(l.top_logprobs)},
          {"text_offset", std::move(l.text_offset)}};
}

OrderedJson CompletionWriter::head() const {
  const ResponseHead& h = options_.head;
  return {{"id", h.id},
          {"object", "text_completion"},
          {"created", h.created},
          {"model", h.model},
          {"system_fingerprint", nullptr}};
}

/// An event without choices.
OrderedJson CompletionWriter::chunk() const {
  OrderedJson event = head();
  event["choices"] = OrderedJson::array();
  if (options_.head.include_usage) event["usage"] = nullptr;
  return event;
}

void CompletionWriter::end(std::string& out) {
  if (!options_.head.stream) return;
  if (options_.head.include_usage) {
    OrderedJson last = chunk();
    last["usage"] = usage_.json();
    out += json_event(last);
  }
  out += kDoneEvent;
}

std::string CompletionWriter::body() {
  OrderedJson choices = OrderedJson::array();
  for (size_t i = 0; i < texts_.size(); ++i)
    choices.push_back({{"index", i},
                       {"text", texts_[i].text},
                       {"logprobs", take_logprobs(texts_[i])},
                       {"finish_reason", texts_[i].finish_reason}});
  OrderedJson r = head();
  r["choices"] = std::move(choices);
  r["usage"] = usage_.json();
  return json_text(r);
}

}  // namespace sluice
