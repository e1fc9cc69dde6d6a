#include "serve/completion.h"

#include <fmt/format.h>

#include "serve/api_error.h"

namespace sluice {
namespace {

[[noreturn]] void refuse_prompt(const OrderedJson& found) {
  throw invalid_param("prompt", fmt::format("expected a string, token ids, or up to {} of these, found {}", kMostTexts,
                                            json_excerpt(found)));
}

std::vector<int32_t> parse_ids(const OrderedJson& list, int64_t vocab) {
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const OrderedJson& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(vocab))
      throw invalid_param("prompt",
                          fmt::format("expected token ids from 0 to {}, found {}", vocab - 1, json_excerpt(id)));
    ids.push_back(static_cast<int32_t>(id.get<uint64_t>()));
  }
  return ids;
}

std::vector<CompletionPrompt> parse_prompts(const Fields& body, int64_t vocab) {
  const OrderedJson* prompt = body.find("prompt");
  if (!prompt) throw invalid_param("prompt", "expected a string, found nothing");
  if (prompt->is_string()) return {prompt->get<std::string>()};
  if (!prompt->is_array() || prompt->empty()) refuse_prompt(*prompt);
  if (prompt->front().is_number()) return {parse_ids(*prompt, vocab)};
  if (prompt->size() > static_cast<size_t>(kMostTexts)) refuse_prompt(*prompt);
  std::vector<CompletionPrompt> prompts;
  for (const OrderedJson& one : *prompt) {
    if (one.is_string()) {
      prompts.emplace_back(one.get<std::string>());
    } else if (one.is_array()) {
      prompts.emplace_back(parse_ids(one, vocab));
    } else {
      refuse_prompt(one);
    }
  }
  return prompts;
}

}  // namespace

Completion parse_completion(const OrderedJson& body, const GenerateOptions& defaults) {
  const Fields fields(body);
  GenerateOptions short_text = defaults;
  short_text.max_tokens = kCompletionTokens;
  Completion c;
  c.text = parse_text_request(fields, short_text);
  c.prompts = parse_prompts(fields, defaults.vocab_limit);
  if (static_cast<int64_t>(c.prompts.size()) * c.text.num_texts > kMostTexts)
    throw invalid_param("n", fmt::format("expected at most {} texts in all", kMostTexts));
  c.suffix = fields.text("suffix");
  c.echo = fields.boolean("echo").value_or(false);
  c.top_logprobs = fields.integer("logprobs", 0, kMostTopLogprobs);
  if (c.suffix && c.suffix->empty()) c.suffix.reset();
  if (c.suffix && c.echo) throw invalid_param("echo", "expected false with a suffix");
  if (c.suffix && (c.prompts.size() > 1 || !std::holds_alternative<std::string>(c.prompts[0])))
    throw invalid_param("suffix", "expected with one prompt, a string");
  if (const auto best = fields.integer("best_of", 1, kMostTexts); best && *best != c.text.num_texts)
    throw invalid_param("best_of", "expected the value of n: the best of several is not chosen");
  if (c.text.options.max_tokens == 0 && !c.echo) throw invalid_param("max_tokens", "expected at least 1 without echo");
  return c;
}

}  // namespace sluice
