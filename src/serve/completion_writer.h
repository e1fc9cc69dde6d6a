// The response to a text completion.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "chat/text_stream.h"
#include "serve/response_text.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

struct CompletionWriterOptions {
  ResponseHead head;
  std::vector<std::string> stops;
  size_t texts_per_prompt = 1;
  bool logprobs = false, echo = false;
};

class CompletionWriter final : public ResponseWriter {
 public:
  /// `prompts`: ids of the prompts, each of which has options.texts_per_prompt texts, one after another. `tokenizer`
  /// must outlive it.
  CompletionWriter(const Tokenizer& tokenizer, std::vector<std::vector<int32_t>> prompts,
                   CompletionWriterOptions options);

  void prompt(size_t index, std::span<const TokenLogprobs> logprobs, std::string& out) override;
  bool token(size_t index, const GeneratedToken& token) override;
  void take(std::string& out) override;
  void finished(size_t index, const RequestResult& result, std::string& out) override;
  void end(std::string& out) override;
  std::string body() override;
  Usage usage() const override { return usage_; }

 private:
  struct Noted {
    TokenLogprobs logprobs;
    bool is_known;   // not of a prompt's first token
    int64_t offset;  // in characters of the text
  };
  struct Text {
    TextStream stream;
    std::string text{};             // in a stream: since the last event
    std::vector<Noted> logprobs{};  // in a stream: since the last event
    TokenText noted;                // the tokens with log probabilities, which `offset` counts
    int64_t offset = 0;             // characters of the text that these have completed
    bool echoed = false;
    std::string finish_reason{};
  };

  const std::vector<int32_t>& prompt_of(size_t index) const { return prompts_[index / options_.texts_per_prompt]; }
  void begin(size_t index);
  void note(Text& text, int32_t id, const TokenLogprobs* logprobs);
  std::string take_logprobs(Text& text);
  std::string take_choice(size_t index, const char* finish_reason);

  const Tokenizer& tokenizer_;
  const std::vector<std::vector<int32_t>> prompts_;
  const CompletionWriterOptions options_;
  const ResponseText frame_;
  std::vector<Text> texts_;
  size_t kept_logprobs_ = 0;
  Usage usage_;
};

}  // namespace sluice
