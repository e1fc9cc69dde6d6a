// The frame of responses and events, put together as text: what is in it may be large, and events are many.
#pragma once
#include <fmt/format.h>

#include <string>

#include "serve/json_text.h"
#include "serve/response_writer.h"

namespace sluice {

/// One of the `choices` of a response. `value` and `logprobs`: as JSON; `finish_reason`: or null.
inline std::string choice_text(size_t index, const char* key, const std::string& value, const std::string& logprobs,
                               const char* finish_reason) {
  return fmt::format(R"({{"index":{},"{}":{},"logprobs":{},"finish_reason":{}}})", index, key, value, logprobs,
                     finish_reason ? json_text(finish_reason) : "null");
}

class ResponseText {
 public:
  /// `object`: what OpenAI calls this kind of response, or of event.
  ResponseText(const ResponseHead& head, const char* object)
      : begin_(json_text({{"id", head.id},
                          {"object", object},
                          {"created", head.created},
                          {"model", head.model},
                          {"system_fingerprint", nullptr}})),
        include_usage_(head.include_usage) {
    begin_.back() = ',';
    begin_ += R"("choices":[)";
  }

  /// `choices`: as JSON, with commas between, without the brackets. `usage`: as JSON.
  std::string response(const std::string& choices, const std::string& usage) const {
    return begin_ + choices + R"(],"usage":)" + usage + "}";
  }

  /// One event of a stream, with `usage` where the request wants it.
  std::string event(const std::string& choices, const std::string& usage) const {
    return "data: " + (include_usage_ ? response(choices, usage) : begin_ + choices + "]}") + "\n\n";
  }

 private:
  std::string begin_;
  bool include_usage_;
};

}  // namespace sluice
