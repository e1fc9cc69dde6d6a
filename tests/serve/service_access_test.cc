// Who may use the service: keys, pages of other sites.
#include "../base/temp_dir.h"
#include "serve/api_key.h"
#include "service_fixture.h"

namespace sluice::test {
namespace {

class ServiceWithKeys : public ServiceTest {
 protected:
  ServiceWithKeys() : ServiceTest({.api_keys = {"key-one", "key-two"}, .cors_origin = "https://chat.example"}) {}
  HttpResponse with_key(const std::string& value) {
    HttpRequest r = http_request("GET", "/v1/models");
    r.headers = {{"authorization", value}};
    return call(r);
  }
};

TEST_F(ServiceWithKeys, AreAskedFor) {
  EXPECT_EQ(with_key("Bearer key-one").status, 200);
  EXPECT_EQ(with_key("bearer key-two").status, 200);
  for (const char* wrong : {"", "Bearer", "Bearer ", "Bearer key-on", "Bearer key-onee", "key-one", "Basic key-one"})
    EXPECT_EQ(refusal(with_key(wrong), 401)["code"], "invalid_api_key") << wrong;
  refusal(get("/metrics"), 401);
  refusal(post("/v1/chat/completions", "{"), 401);
  EXPECT_EQ(get("/health").status, 200);
  EXPECT_EQ(get("/").status, 200);
  EXPECT_EQ(log().find("key-"), std::string::npos) << log();
}

TEST_F(ServiceWithKeys, CrossOriginRequests) {
  const HttpResponse preflight = call(http_request("OPTIONS", "/v1/chat/completions"));
  EXPECT_EQ(preflight.status, 204);
  EXPECT_EQ(header(preflight, "Access-Control-Allow-Origin"), "https://chat.example");
  EXPECT_EQ(header(get("/health"), "Access-Control-Allow-Origin"), "https://chat.example");
}

TEST_F(ServiceTest, NoCrossOriginRequestsUnlessAsked) {
  EXPECT_EQ(header(get("/health"), "Access-Control-Allow-Origin"), "");
  EXPECT_EQ(call(http_request("OPTIONS", "/v1/chat/completions")).status, 405);
}

TEST_F(ServiceTest, WithoutKeysRefusesPagesOfOtherSites) {
  const auto code = [&](const std::string& host, const std::string& origin) -> std::string {
    HttpRequest r = http_request("POST", "/v1/chat/completions", chat_body(""));
    r.headers = {{"content-type", "text/plain"}, {"host", host}};
    if (!origin.empty()) r.headers.emplace_back("origin", origin);
    const HttpResponse response = call(r);
    return response.status == 200 ? "" : refusal(response, 403)["code"];
  };
  for (const char* own : {"localhost", "LocalHost:8080", "127.0.0.1:8080", "192.168.1.7", "[::1]:8080", "[fe80::1]"}) {
    EXPECT_EQ(code(own, ""), "") << own;
    EXPECT_EQ(code(own, std::string("http://") + own), "") << own;
    EXPECT_EQ(code(own, std::string("https://") + own), "") << own;
    for (const char* foreign :
         {"https://evil.example", "null", "http://127.0.0.1:3000", "http://localhost.evil.example"})
      EXPECT_EQ(code(own, foreign), "origin_not_allowed") << own << foreign;
  }
  for (const char* rebound : {"evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example",
                              "127.0.0.1@evil.example", "[evil.example]", "[", "[::1", ":8080", "127.1", "x"})
    EXPECT_EQ(code(rebound, std::string("http://") + rebound), "host_not_allowed") << rebound;
  const size_t answered = texts_.requests.size();
  EXPECT_EQ(code("evil.example", ""), "host_not_allowed");
  EXPECT_EQ(texts_.requests.size(), answered);
  HttpRequest health = http_request("GET", "/health");
  health.headers = {{"host", "probe.example"}};
  EXPECT_EQ(call(health).status, 200);
}

class ServiceWithOrigin : public ServiceTest {
 protected:
  explicit ServiceWithOrigin(const std::string& origin = "https://chat.example")
      : ServiceTest({.cors_origin = origin}) {}
  int status_from(const std::string& origin) {
    HttpRequest r = http_request("POST", "/v1/completions", R"({"prompt": "a"})");
    r.headers = {{"host", "localhost:8080"}, {"origin", origin}};
    return call(r).status;
  }
};

TEST_F(ServiceWithOrigin, TakesItsPages) {
  EXPECT_EQ(status_from("https://chat.example"), 200);
  EXPECT_EQ(status_from("https://chat.example.evil"), 403);
}

class ServiceForAllOrigins : public ServiceWithOrigin {
 protected:
  ServiceForAllOrigins() : ServiceWithOrigin("*") {}
};

TEST_F(ServiceForAllOrigins, TakesAllPages) { EXPECT_EQ(status_from("https://any.example"), 200); }

TEST_F(ServiceWithKeys, HaveAnyNameAndOrigin) {
  HttpRequest r = http_request("GET", "/v1/models");
  r.headers = {{"authorization", "Bearer key-one"}, {"host", "llm.example"}, {"origin", "https://other.example"}};
  EXPECT_EQ(call(r).status, 200);
}

TEST(ApiKeys, FileOfKeys) {
  EXPECT_EQ(parse_api_keys("# team\n a-key \r\n\nother\n", "f"), (std::vector<std::string>{"a-key", "other"}));
  EXPECT_EQ(error_of([] { parse_api_keys("# none\n", "f"); }), "f: expected a key, found none");
  EXPECT_NE(error_of([] { parse_api_keys("two words", "f"); }), "");
}

}  // namespace
}  // namespace sluice::test
