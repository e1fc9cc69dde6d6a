// A service with a model that is none.
#pragma once
#include <string>

#include "fixture.h"
#include "serve/service.h"

namespace sluice::test {

inline const char* const kHello = R"({"messages": [{"role": "user", "content": "secret question"}])";

class ServiceTest : public testing::Test {
 protected:
  explicit ServiceTest(ServiceOptions options = {}, bool is_chat = true)
      : model_(fake_model(texts_, is_chat)), service_(with_log(std::move(options))) {
    service_.set_model(model_);
  }
  ServiceOptions with_log(ServiceOptions o) {
    o.log = [this](std::string_view line) {
      const std::lock_guard lock(log_mutex_);
      log_ += std::string(line) + "\n";
    };
    return o;
  }
  HttpResponse call(HttpRequest request) {
    const auto reply = std::make_shared<RecordingReply>();
    service_.handle(std::move(request), reply);
    return reply->wait();
  }
  HttpResponse get(const std::string& path) { return call(http_request("GET", path)); }
  HttpResponse post(const std::string& path, const std::string& body) { return call(http_request("POST", path, body)); }
  Json answer(const std::string& path, const std::string& body) {
    const HttpResponse r = post(path, body);
    EXPECT_EQ(r.status, 200) << r.body;
    return Json::parse(r.body);
  }
  /// {"message", "type", "param", "code"} of a refusal with that status.
  Json refusal(const HttpResponse& r, int status) {
    EXPECT_EQ(r.status, status) << r.body;
    const Json error = Json::parse(r.body).at("error");
    EXPECT_EQ(error.size(), 4u) << r.body;
    EXPECT_TRUE(error.at("message").is_string() && error.contains("type") && error.contains("param") &&
                error.contains("code"));
    return error;
  }
  std::string chat_body(const std::string& fields) { return kHello + fields + "}"; }
  std::string log() {
    const std::lock_guard lock(log_mutex_);
    return log_;
  }

  std::mutex log_mutex_;
  std::string log_;
  ServedModel model_;
  Service service_;
  FakeTexts texts_;
};

inline std::string header(const HttpResponse& r, const std::string& name) {
  for (const auto& [key, value] : r.headers)
    if (key == name) return value;
  return "";
}

}  // namespace sluice::test
