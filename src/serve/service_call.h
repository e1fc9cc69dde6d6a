// One call of the service, on its way to an endpoint.
#pragma once
#include <chrono>
#include <memory>
#include <string>

#include "serve/service.h"

namespace sluice {

struct Service::Call {
  HttpRequest request;
  std::shared_ptr<HttpReply> reply;
  std::string id{};       // sent back as x-request-id
  HttpHeaders headers{};  // of every response to it
  std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
};

/// An address. `needs_key`: or, where there are none, no page of another site. `deepseek`: a form of DeepSeek's API,
/// where a wrong parameter is status 422 instead of 400.
struct Service::Route {
  std::string_view method, path;
  void (Service::*endpoint)(const Call&);
  bool needs_key = true, deepseek = false;
};

}  // namespace sluice
