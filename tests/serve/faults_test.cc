// The whole server on a socket, with clients that do not behave.
#include "fixture.h"
#include "raw_client.h"
#include "serve/http_server.h"

namespace sluice::test {
namespace {

template <class F>
bool eventually(F&& holds) {
  for (int i = 0; i < 1000; ++i) {
    if (holds()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

class Faults : public testing::Test {
 protected:
  explicit Faults(std::chrono::milliseconds keep_alive = ServiceOptions().keep_alive)
      : model_(fake_model(texts_)), service_(service_options(keep_alive)) {
    service_.set_model(model_);
    HttpOptions o;
    o.port = 0;
    o.refusal = [this](int status, std::string_view reason) { return service_.refuse(status, reason); };
    o.limits.unsent_bytes = 100'000;
    server_ = std::make_unique<HttpServer>(o, [this](HttpRequest r, std::shared_ptr<HttpReply> reply) {
      service_.handle(std::move(r), std::move(reply));
    });
  }
  ServiceOptions service_options(std::chrono::milliseconds keep_alive) {
    ServiceOptions o;
    o.keep_alive = keep_alive;
    o.api_keys = {"right"};
    o.log = [this](std::string_view line) {
      const std::lock_guard lock(log_mutex_);
      log_ += std::string(line) + "\n";
    };
    return o;
  }
  static std::string body(const std::string& fields = "") {
    return R"({"messages": [{"role": "user", "content": "hi"}])" + fields + "}";
  }
  std::string post(RawClient& client, const std::string& json, const std::string& key = "right") {
    client.post("/v1/chat/completions", json, "Authorization: Bearer " + key + "\r\n");
    return client.response();
  }
  /// A request like any other is answered: nothing has been broken.
  void expect_alive() {
    RawClient client(server_->port());
    const std::string r = post(client, body());
    EXPECT_EQ(status_of(r), 200) << r;
    EXPECT_NE(r.find("\"finish_reason\":\"stop\""), std::string::npos) << r;
  }

  std::mutex log_mutex_;
  std::string log_;
  ServedModel model_;
  Service service_;
  std::unique_ptr<HttpServer> server_;
  FakeTexts texts_;
};

/// Also what never becomes a request is in the log and in the metrics.
TEST_F(Faults, RefusalsOfConnectionsAreLoggedAndCounted) {
  const std::pair<std::string, int> cases[] = {
      {"GET /" + std::string(40'000, 'x') + " HTTP/1.1\r\n\r\n", 431},
      {"nonsense\r\n\r\n", 400},
      {"POST /v1/completions HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n", 413},
  };
  for (const auto& [text, status] : cases) {
    RawClient client(server_->port());
    client.send(text);
    EXPECT_EQ(status_of(client.response()), status);
  }
  RawClient client(server_->port());
  client.send("GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer right\r\n\r\n");
  const std::string metrics = client.response();
  EXPECT_NE(metrics.find("status=\"4xx\"} 3"), std::string::npos) << metrics;
  const std::lock_guard lock(log_mutex_);
  EXPECT_NE(log_.find("431 refused: the headers are too large\n"), std::string::npos) << log_;
  EXPECT_NE(log_.find("400 refused: malformed HTTP"), std::string::npos) << log_;
  EXPECT_NE(log_.find("413 refused: the body is too large\n"), std::string::npos) << log_;
}

TEST_F(Faults, BadBodiesAndKeysAreRefused) {
  std::string stops = "[";
  for (int i = 0; i < 10000; ++i) stops += (i ? ",\"" : "\"") + std::to_string(i) + "\"";
  const struct {
    std::string body;
    const char* key;
    int status;
  } cases[] = {
      {body(), "wrong", 401},
      {body(), "", 401},
      {"", "right", 400},
      {"{\"messages\": \"\xC3\x28\"}", "right", 400},
      {std::string(1'000'000, '['), "right", 400},
      {R"({"messages": )" + std::string(1'000'000, '{'), "right", 400},
      {body(R"(, "stop": )" + stops + "]"), "right", 400},
      {body(R"(, "temperature": )" + std::string(100'000, '9')), "right", 400},
  };
  RawClient client(server_->port());  // one connection: refusals leave it usable
  for (const auto& c : cases) EXPECT_EQ(status_of(post(client, c.body, c.key)), c.status) << c.body.substr(0, 50);
  EXPECT_EQ(status_of(post(client, body())), 200);
}

TEST_F(Faults, AHugeBodyIsRefusedWhileItComes) {
  RawClient client(server_->port());
  client.send("POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n");
  std::thread sender([&] {
    for (int i = 0; i < 1000 && client.send(std::string(100'000, 'x')); ++i) {
    }
  });
  EXPECT_EQ(status_of(client.response()), 413);
  sender.join();
  expect_alive();
}

TEST_F(Faults, AClientThatVanishesCancelsItsText) {
  texts_.text = std::string(100'000, 'x');
  texts_.pause = std::chrono::milliseconds(1);
  for (const char* stream : {"", R"(, "stream": true)"}) {
    const int before = texts_.cancels;
    RawClient client(server_->port());
    client.post("/v1/chat/completions", body(stream), "Authorization: Bearer right\r\n");
    EXPECT_TRUE(!*stream || client.read_until("\"x\""));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    client.leave();
    EXPECT_TRUE(eventually([&] { return texts_.cancels > before; })) << stream;
  }
  texts_.text = "hello";
  expect_alive();
}

TEST_F(Faults, AClientThatDoesNotReadIsGivenUp) {
  texts_.text = std::string(2'000'000, '\1');  // six bytes each as JSON
  RawClient client(server_->port(), 4096);
  client.post("/v1/chat/completions", body(R"(, "stream": true, "max_tokens": 2000000)"),
              "Authorization: Bearer right\r\n");
  EXPECT_TRUE(client.read_until("assistant"));
  EXPECT_TRUE(eventually([&] { return texts_.cancels > 0; }));
  EXPECT_TRUE(eventually([&] { return server_->connections() == 0; }));
  texts_.text = "hello";
  expect_alive();
}

class FaultsOfWaitingClients : public Faults {
 protected:
  FaultsOfWaitingClients() : Faults(std::chrono::milliseconds(40)) {}
};

TEST_F(FaultsOfWaitingClients, ALongAnswerComesWholeAfterSignsOfLife) {
  texts_.held = true;
  RawClient client(server_->port());
  client.post("/v1/chat/completions", body(R"(, "max_tokens": 300000)"), "Authorization: Bearer right\r\n");
  ASSERT_TRUE(client.read_until("\r\n1\r\n\n\r\n"));
  texts_.text = std::string(300'000, 'x');
  texts_.release();
  EXPECT_TRUE(client.read_until("\r\n0\r\n\r\n"));
  EXPECT_NE(client.received().find(texts_.text), std::string::npos);
}

TEST_F(Faults, DrainFinishesStreams) {
  texts_.text = std::string(100, 'x');
  texts_.pause = std::chrono::milliseconds(3);
  RawClient streaming(server_->port()), idle(server_->port());
  streaming.post("/v1/chat/completions", body(R"(, "stream": true)"), "Authorization: Bearer right\r\n");
  ASSERT_TRUE(streaming.read_until("\"x\""));
  server_->drain();
  EXPECT_TRUE(idle.read_to_end());
  server_->wait();
  EXPECT_TRUE(streaming.read_to_end());
  EXPECT_NE(streaming.received().find("\"finish_reason\":\"stop\""), std::string::npos);
  EXPECT_TRUE(streaming.received().ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"))
      << streaming.received().substr(streaming.received().size() - 100);
  EXPECT_EQ(texts_.cancels, 0);
}

}  // namespace
}  // namespace sluice::test
