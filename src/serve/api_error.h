// Requests that are refused, in the form that OpenAI's and DeepSeek's clients read.
#pragma once
#include <stdexcept>
#include <string>

#include "serve/http_message.h"

namespace sluice {

/// A request that gets no answer. `param` names the field and `code` the kind, where there is one.
class ApiError : public std::runtime_error {
 public:
  ApiError(int http_status, std::string error_type, const std::string& message, std::string error_param = {},
           std::string error_code = {})
      : std::runtime_error(message),
        status(http_status),
        type(std::move(error_type)),
        param(std::move(error_param)),
        code(std::move(error_code)) {}

  int status;
  std::string type, param, code;
};

/// Status 400, "<param>: <message>".
ApiError invalid_param(const std::string& param, const std::string& message);

/// Status 400 for an Error of another layer, whose text names the field up to its first ": ".
ApiError invalid_param(const std::string& text);

/// Status 400 about the request as a whole.
ApiError invalid_request(const std::string& message);

/// {"error": {"message", "type", "param", "code"}}
std::string error_body(const ApiError& error);

HttpResponse error_response(const ApiError& error);

/// The response for an HTTP status that has no field to blame.
HttpResponse plain_error(int status, std::string_view message);

}  // namespace sluice
