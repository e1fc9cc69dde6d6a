#include "serve/completion_writer.h"

#include <fmt/format.h>

#include <algorithm>

#include "serve/kept_logprobs.h"

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
    : tokenizer_(tokenizer),
      prompts_(std::move(prompts)),
      options_(std::move(options)),
      frame_(options_.head, "text_completion") {
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

void CompletionWriter::prompt(size_t index, std::span<const TokenLogprobs> logprobs, std::string& out) {
  begin(index);
  for (const TokenLogprobs& l : logprobs) note(texts_[index], l.token.id, &l);
  if (options_.head.stream) out += frame_.event(take_choice(index, nullptr), "null");
}

bool CompletionWriter::token(size_t index, const GeneratedToken& token) {
  begin(index);
  Text& t = texts_[index];
  ++usage_.completion;
  if (token.index == 0) t.offset += num_characters(t.noted.finish());  // of the prompt: the text begins anew after it
  if (token.logprobs) note(t, token.id, token.logprobs);
  t.text += t.stream.push(token.id);
  return !t.stream.stopped();
}

void CompletionWriter::take(std::string& out) {
  if (!options_.head.stream) return;
  for (size_t i = 0; i < texts_.size(); ++i)
    if (!texts_[i].text.empty()) out += frame_.event(take_choice(i, nullptr), "null");
}

void CompletionWriter::finished(size_t index, const RequestResult& result, std::string& out) {
  const bool is_complete =
      result.finish != Finish::failed && result.finish != Finish::cancelled && result.finish != Finish::expired;
  usage_.add(result, index % options_.texts_per_prompt == 0);
  if (is_complete) begin(index);
  Text& t = texts_[index];
  const bool cut_off = result.finish == Finish::max_tokens || result.finish == Finish::context_full;
  t.finish_reason = cut_off ? "length" : "stop";
  t.text += t.stream.finish();
  if (options_.head.stream) out += frame_.event(take_choice(index, t.finish_reason.c_str()), "null");
}

void CompletionWriter::note(Text& t, int32_t id, const TokenLogprobs* l) {
  t.logprobs.push_back({l ? *l : TokenLogprobs{{id, 0}, {}}, l != nullptr, t.offset});
  count_logprobs(kept_logprobs_, t.logprobs.back().logprobs);
  t.offset += num_characters(t.noted.push(id));
}

/// What is kept of a text.
std::string CompletionWriter::take_choice(size_t index, const char* finish_reason) {
  Text& t = texts_[index];
  return choice_text(index, "text", json_text(std::exchange(t.text, {})), take_logprobs(t), finish_reason);
}

/// As text: as JSON values they would take a hundred times the memory.
std::string CompletionWriter::take_logprobs(Text& t) {
  if (!options_.logprobs) return "null";
  std::string tokens, own, top, offsets;
  for (const Noted& n : std::exchange(t.logprobs, {})) {
    kept_logprobs_ -= 1 + n.logprobs.top.size();
    OrderedJson others = nullptr;
    if (n.is_known) others = OrderedJson::object();
    for (const TokenLogprob& other : n.logprobs.top)
      others[token_name(tokenizer_.token_bytes(other.id))] = finite_logprob(other.logprob);
    const TokenLogprob& token = n.logprobs.token;
    const char* comma = tokens.empty() ? "" : ",";
    tokens += comma + json_text(token_name(tokenizer_.token_bytes(token.id)));
    own += comma + (n.is_known ? json_text(finite_logprob(token.logprob)) : "null");
    top += comma + json_text(others);
    offsets += comma + std::to_string(n.offset);
  }
  return fmt::format(R"({{"tokens":[{}],"token_logprobs":[{}],"top_logprobs":[{}],"text_offset":[{}]}})", tokens, own,
                     top, offsets);
}

void CompletionWriter::end(std::string& out) {
  if (!options_.head.stream) return;
  if (options_.head.include_usage) out += frame_.event("", json_text(usage_.json()));
  out += kDoneEvent;
}

std::string CompletionWriter::body() {
  std::string choices;
  for (size_t i = 0; i < texts_.size(); ++i) {
    if (i > 0) choices += ',';
    choices += take_choice(i, texts_[i].finish_reason.c_str());
  }
  return frame_.response(choices, json_text(usage_.json()));
}

}  // namespace sluice
