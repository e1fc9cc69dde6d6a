// A response ends whatever its writer does.
#include "serve/exchange.h"

#include "fixture.h"

namespace sluice::test {
namespace {

enum class Fails : uint8_t { event, finished, body };

/// Cannot write what tokens have given, the first text, or the whole.
class FailingWriter final : public ResponseWriter {
 public:
  explicit FailingWriter(Fails fails) : fails_(fails) {}
  bool token(size_t, const GeneratedToken&) override { return true; }
  void take(std::string&) override {
    if (fails_ == Fails::event) fail("logprobs: too many");
  }
  void finished(size_t index, const RequestResult&, std::string&) override {
    if (fails_ == Fails::finished && index == 0) fail("logprobs: too many");
  }
  void end(std::string&) override {}
  std::string body() override { throw std::bad_alloc(); }
  Usage usage() const override { return {}; }

 private:
  const Fails fails_;
};

/// The response to a request of two texts, and the status that is logged.
HttpResponse respond(Fails fails, bool stream, int& logged) {
  FakeTexts texts;
  const ServedModel model = fake_model(texts);
  Metrics metrics;
  const auto reply = std::make_shared<RecordingReply>();
  ExchangeSetup setup;
  setup.model = &model;
  setup.reply = reply;
  setup.writer = std::make_unique<FailingWriter>(fails);
  setup.stream = stream;
  setup.metrics = &metrics;
  setup.done = [&](int status, const Usage&) { logged = status; };
  std::vector<Request> requests(2);
  for (Request& r : requests) r.options.max_tokens = 3;
  std::make_shared<Exchange>(std::move(setup))->start(std::move(requests));
  return reply->wait();
}

TEST(Exchange, EndsWhereATextCannotBeWritten) {
  int logged = 0;
  const HttpResponse whole = respond(Fails::finished, false, logged);
  EXPECT_EQ(whole.status, 400);
  EXPECT_EQ(logged, 400);
  EXPECT_EQ(Json::parse(whole.body)["error"]["param"], "logprobs");
  for (const Fails fails : {Fails::event, Fails::finished}) {
    const std::vector<Json> events = events_of(respond(fails, true, logged).body);
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(events[0]["error"]["message"], "logprobs: too many");
  }
}

TEST(Exchange, EndsWhereTheWholeCannotBeWritten) {
  int logged = 0;
  const HttpResponse r = respond(Fails::body, false, logged);
  EXPECT_EQ(r.status, 500);
  EXPECT_EQ(logged, 500);
  EXPECT_EQ(Json::parse(r.body)["error"]["type"], "server_error");
}

}  // namespace
}  // namespace sluice::test
