// The response to a chat completion.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "chat/answer.h"
#include "serve/response_text.h"

namespace sluice {

struct ChatWriterOptions {
  ResponseHead head;
  AnswerFormat format;
  std::vector<std::string> stops;
  size_t num_texts = 1;
  bool logprobs = false, parallel_calls = true;
};

class ChatWriter final : public ResponseWriter {
 public:
  /// `tokenizer` must outlive it.
  ChatWriter(const Tokenizer& tokenizer, ChatWriterOptions options);

  bool token(size_t index, const GeneratedToken& token) override;
  void take(std::string& out) override;
  void finished(size_t index, const RequestResult& result, std::string& out) override;
  void end(std::string& out) override;
  std::string body() override;
  Usage usage() const override { return usage_; }

 private:
  struct Call {
    std::string id, name, arguments;
  };
  struct Logprobs {  // of tokens by the section that they belong to
    std::vector<TokenLogprobs> content{}, reasoning{};
  };
  struct Answer {
    AnswerParser parser;
    std::string content{}, reasoning{};
    std::vector<Call> calls{};
    AnswerEvents pending{};  // in a stream: since the last event, what belongs together in one
    Logprobs logprobs{};     // in a stream: since the last event
    std::string finish_reason{};
    bool begun = false, enough_calls = false;
  };

  void apply(Answer& answer, const AnswerEvents& events);
  void take(size_t index, std::string& out);
  OrderedJson delta_of(Answer& answer, const AnswerEvent& event);
  OrderedJson add_call(Answer& answer, const AnswerEvent& event);
  void note_logprobs(Answer& answer, const TokenLogprobs& logprobs);
  std::string take_logprobs(Answer& answer);
  void put(size_t index, const OrderedJson& delta, std::string& out, const char* finish_reason = nullptr);
  OrderedJson message(const Answer& answer) const;
  std::string list_of(const std::vector<TokenLogprobs>& tokens) const;

  const Tokenizer& tokenizer_;
  const ChatWriterOptions options_;
  const ResponseText frame_;
  std::vector<Answer> answers_;
  size_t kept_logprobs_ = 0;
  Usage usage_;
};

}  // namespace sluice
