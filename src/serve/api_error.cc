#include "serve/api_error.h"

#include <fmt/format.h>

#include "serve/json_text.h"

namespace sluice {
namespace {

constexpr const char* kInvalid = "invalid_request_error";

OrderedJson text_or_null(const std::string& text) { return text.empty() ? OrderedJson(nullptr) : OrderedJson(text); }

const char* type_of(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "unavailable_error";
    default:
      return status < 500 ? kInvalid : "server_error";
  }
}

}  // namespace

ApiError invalid_param(const std::string& param, const std::string& message) {
  return {400, kInvalid, fmt::format("{}: {}", param, message), param};
}

ApiError invalid_param(const std::string& text) {
  const size_t end = text.find(": ");
  return {400, kInvalid, text, end == std::string::npos ? "" : text.substr(0, end)};
}

ApiError invalid_request(const std::string& message) { return {400, kInvalid, message}; }

std::string error_body(const ApiError& error) {
  const OrderedJson body = {{"error",
                             {{"message", error.what()},
                              {"type", error.type},
                              {"param", text_or_null(error.param)},
                              {"code", text_or_null(error.code)}}}};
  return json_text(body);
}

HttpResponse error_response(const ApiError& error) { return {error.status, kJsonType, error_body(error)}; }

HttpResponse plain_error(int status, std::string_view message) {
  return error_response({status, type_of(status), std::string(message)});
}

}  // namespace sluice
