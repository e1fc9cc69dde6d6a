#include "serve/text_endpoints.h"

#include <algorithm>

#include "base/error.h"
#include "chat/prompt.h"
#include "serve/api_error.h"
#include "serve/chat_writer.h"
#include "serve/completion_writer.h"

namespace sluice {
namespace {

constexpr const char* kFimBegin = "<｜fim▁begin｜>";
constexpr const char* kFimHole = "<｜fim▁hole｜>";
constexpr const char* kFimEnd = "<｜fim▁end｜>";

ResponseHead response_head(const TextRequest& r, const ServedModel& model, const std::string& id, int64_t now) {
  return {id, r.model.empty() ? model.names.front() : r.model, now, r.stream, r.include_usage};
}

void encode_onto(std::vector<int32_t>& ids, const ServedModel& model, std::string_view text, bool special,
                 const char* param) {
  try {
    model.tokenizer.encode(text, special, ids);
  } catch (const Error& e) {
    throw invalid_param(param, e.what());
  }
}

void check_length(const std::vector<int32_t>& ids, const ServedModel& model, const char* param) {
  const auto tokens = static_cast<int64_t>(ids.size());
  if (tokens == 0) throw invalid_param(param, "expected at least one token");
  if (tokens >= model.context)
    throw ApiError(400, "invalid_request_error",
                   fmt::format("This model's maximum context length is {} tokens, of which a prompt can have {}. "
                               "However, your {} resulted in {} tokens.",
                               model.context, model.context - 1, param, tokens),
                   param, "context_length_exceeded");
}

/// Text before and after a hole; what is typed is never a special token here.
std::vector<int32_t> fim_prompt(const ServedModel& model, const std::string& before, const std::string& after) {
  std::vector<int32_t> ids;
  if (model.tokenizer.add_bos()) ids.push_back(model.tokenizer.bos_id());
  const auto add_token = [&](const char* text) {
    const auto id = model.tokenizer.id_of(text);
    if (!id) throw invalid_param("suffix", fmt::format("not possible with this model: it has no token {}", text));
    ids.push_back(*id);
  };
  add_token(kFimBegin);
  encode_onto(ids, model, before, false, "prompt");
  add_token(kFimHole);
  encode_onto(ids, model, after, false, "suffix");
  add_token(kFimEnd);
  return ids;
}

std::vector<std::vector<int32_t>> completion_prompts(const Completion& c, const ServedModel& model) {
  std::vector<std::vector<int32_t>> prompts;
  for (const CompletionPrompt& p : c.prompts) {
    if (const auto* text = std::get_if<std::string>(&p)) {
      prompts.push_back(c.suffix ? fim_prompt(model, *text, *c.suffix) : encode_prompt(model, *text, "prompt"));
    } else {
      prompts.push_back(std::get<std::vector<int32_t>>(p));
    }
    check_length(prompts.back(), model, "prompt");
  }
  return prompts;
}

Request text_of(const TextRequest& r, const std::vector<int32_t>& prompt, int64_t index) {
  Request request;
  request.prompt = prompt;
  request.options = r.options_of(index);
  request.client = r.user;
  request.deadline = std::chrono::steady_clock::now() + kMostTextTime;
  return request;
}

}  // namespace

void check_model_name(const ServedModel& model, const std::string& name) {
  if (name.empty() || std::find(model.names.begin(), model.names.end(), name) != model.names.end()) return;
  throw ApiError(404, "invalid_request_error",
                 fmt::format("The model `{}` does not exist. This server has `{}`.", name, model.names.front()),
                 "model", "model_not_found");
}

std::vector<int32_t> encode_prompt(const ServedModel& model, const std::string& text, const char* param) {
  std::vector<int32_t> ids;
  if (model.tokenizer.add_bos()) ids.push_back(model.tokenizer.bos_id());
  encode_onto(ids, model, text, true, param);
  return ids;
}

PreparedTexts prepare_chat(const OrderedJson& body, const ServedModel& model, GrammarCache& grammars,
                           const std::string& id, int64_t now) {
  const ChatCompletion c = parse_chat_completion(body, model.defaults);
  check_model_name(model, c.text.model);
  if (model.chat.is_base())
    throw invalid_param("messages", "this model has no chat template: it completes texts, at /v1/completions");
  EncodedPrompt prompt;
  try {
    prompt = encode_prompt(model.chat, model.tokenizer, c.chat, now);
  } catch (const Error& e) {
    throw invalid_param(e.what());
  }
  const std::vector<int32_t>& ids = prompt.ids;
  check_length(ids, model, "messages");
  const ConstraintMaker constraint = answer_constraint(c, prompt.answer, model, grammars);

  PreparedTexts p;
  p.stream = c.text.stream;
  p.max_tokens = c.text.options.max_tokens;
  for (int64_t i = 0; i < c.text.num_texts; ++i) {
    Request r = text_of(c.text, ids, i);
    r.top_logprobs = c.top_logprobs;
    if (constraint) r.constraint = constraint();
    p.requests.push_back(std::move(r));
  }
  p.writer = std::make_unique<ChatWriter>(
      model.tokenizer, ChatWriterOptions{response_head(c.text, model, id, now), prompt.answer, c.text.stops,
                                         p.requests.size(), c.top_logprobs.has_value(), c.parallel_calls});
  return p;
}

PreparedTexts prepare_completion(const OrderedJson& body, const ServedModel& model, const std::string& id,
                                 int64_t now) {
  const Completion c = parse_completion(body, model.defaults);
  check_model_name(model, c.text.model);
  std::vector<std::vector<int32_t>> prompts = completion_prompts(c, model);

  PreparedTexts p;
  p.stream = c.text.stream;
  p.max_tokens = c.text.options.max_tokens;
  for (const std::vector<int32_t>& prompt : prompts)
    for (int64_t i = 0; i < c.text.num_texts; ++i) {
      Request r = text_of(c.text, prompt, i);
      r.top_logprobs = c.top_logprobs;
      r.prompt_logprobs = c.echo && c.top_logprobs;
      p.requests.push_back(std::move(r));
    }
  p.writer = std::make_unique<CompletionWriter>(
      model.tokenizer, std::move(prompts),
      CompletionWriterOptions{response_head(c.text, model, id, now), c.text.stops,
                              static_cast<size_t>(c.text.num_texts), c.top_logprobs.has_value(), c.echo});
  return p;
}

}  // namespace sluice
