// From the bodies of requests for text to what the engine is asked, and the writer of the response.
#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "serve/answer_grammar.h"
#include "serve/completion.h"
#include "serve/response_writer.h"
#include "serve/served_model.h"

namespace sluice {

/// From a text's arrival until its end, waiting included; what takes longer is ended, with status 503. As long as
/// DeepSeek's API takes at most, so that clients made for it wait no longer.
constexpr std::chrono::minutes kMostTextTime{30};

/// A request that is ready to be submitted.
struct PreparedTexts {
  bool stream = false;
  int64_t max_tokens = 0;  // of each text
  std::vector<Request> requests;
  std::unique_ptr<ResponseWriter> writer;
};

/// Prepares a chat completion. `id` and `now` (seconds since 1970) go into the response. `model` must outlive the
/// writer. Throws ApiError for everything that is wrong with the request.
PreparedTexts prepare_chat(const OrderedJson& body, const ServedModel& model, GrammarCache& grammars,
                           const std::string& id, int64_t now);

/// The same of a text completion.
PreparedTexts prepare_completion(const OrderedJson& body, const ServedModel& model, const std::string& id, int64_t now);

/// Throws ApiError (404) unless `name` is one of the model's names or empty.
void check_model_name(const ServedModel& model, const std::string& name);

/// The ids of a prompt that clients write: with the begin token where the tokenizer wants one, and special tokens
/// recognised. Throws ApiError about `param`.
std::vector<int32_t> encode_prompt(const ServedModel& model, const std::string& text, const char* param);

}  // namespace sluice
