// A conversation with a model behind a server: the other end of POST /v1/chat/completions.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "chat/answer_event.h"
#include "serve/http_client.h"
#include "serve/json_text.h"

namespace sluice {

/// What a request says besides its messages; what is not set is left to the server.
struct ChatClientOptions {
  std::string url;  // http://HOST:PORT
  std::string key;  // empty: none
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k, max_tokens;
  std::optional<uint64_t> seed;
};

/// What the server counted; 0 where it did not say.
struct ChatClientUsage {
  int64_t prompt_tokens = 0, cached_tokens = 0, tokens = 0;
};

class ChatClient {
 public:
  /// Throws Error when the server cannot be reached or has no model that can chat.
  explicit ChatClient(ChatClientOptions options);

  const std::string& model() const { return model_; }

  /// Asks for the next message of `messages` ([{"role", "content"}, ...]) and passes its pieces on as they come;
  /// `receive` is also called, with nothing, when a signal has come, and ends the answer by returning false. Throws
  /// Error with the server's message when it refuses or breaks off.
  ChatClientUsage answer(const OrderedJson& messages, const std::function<bool(const AnswerEvents&)>& receive) const;

 private:
  HttpRequest request(const std::string& method, const std::string& path, std::string body) const;
  OrderedJson body(const OrderedJson& messages) const;

  ChatClientOptions options_;
  HttpUrl url_;
  std::string model_;
};

/// What one event of a stream brings; `usage` is set where the event has it. Throws Error for an event that is an error
/// or not what a server of this API sends.
AnswerEvents parse_chat_event(std::string_view data, ChatClientUsage& usage);

}  // namespace sluice
