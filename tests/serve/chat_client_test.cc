#include "serve/chat_client.h"

#include "../base/temp_dir.h"
#include "fixture.h"
#include "serve/http_server.h"

namespace sluice::test {
namespace {

TEST(ChatEvent, ReasoningContentAndUsage) {
  using Kind = AnswerEvent::Kind;
  ChatClientUsage usage;
  EXPECT_EQ(parse_chat_event(R"({"choices":[{"delta":{"content":null,"reasoning_content":"r"}}]})", usage),
            (AnswerEvents{{Kind::reasoning, "r"}}));
  EXPECT_EQ(parse_chat_event(R"({"choices":[{"delta":{"content":"c"}}],"usage":null})", usage),
            (AnswerEvents{{Kind::content, "c"}}));
  EXPECT_TRUE(parse_chat_event(R"({"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":"x"}})", usage).empty());
  EXPECT_EQ(usage.prompt_tokens, 7);
  EXPECT_EQ(usage.tokens, 0);
  EXPECT_TRUE(parse_chat_event("[DONE]", usage).empty());
  for (const char* odd : {"{}", R"({"choices":3})", R"({"choices":[3]})", R"({"choices":[{"delta":[]}]})"})
    EXPECT_TRUE(parse_chat_event(odd, usage).empty()) << odd;
  EXPECT_EQ(error_of([&] { parse_chat_event(R"({"error":{"message":"no room"}})", usage); }), "server: no room");
  EXPECT_NE(error_of([&] { parse_chat_event("<html>", usage); }), "");
}

class ChatClientTest : public testing::Test {
 protected:
  ChatClientTest() : model_(fake_model(texts_)), service_({.api_keys = {"key"}, .log = [](std::string_view) {}}) {
    HttpOptions o;
    o.port = 0;
    o.refusal = plain_error;
    server_ = std::make_unique<HttpServer>(o, [this](HttpRequest r, std::shared_ptr<HttpReply> reply) {
      service_.handle(std::move(r), std::move(reply));
    });
  }
  ChatClientOptions options(const std::string& key = "key") const {
    ChatClientOptions o;
    o.url = "http://127.0.0.1:" + std::to_string(server_->port());
    o.key = key;
    o.max_tokens = 12;
    return o;
  }

  ServedModel model_;
  Service service_;
  std::unique_ptr<HttpServer> server_;
  FakeTexts texts_;
};

TEST_F(ChatClientTest, TalksToTheServer) {
  EXPECT_NE(error_of([&] { ChatClient client(options()); }).find("Loading model"), std::string::npos);
  service_.set_model(model_);
  texts_.text = "<think>hm</think>yes, I do";
  const ChatClient client(options());
  EXPECT_EQ(client.model(), "fake");
  std::string thinking, answer;
  const OrderedJson messages = {{{"role", "user"}, {"content", "hi"}}};
  const ChatClientUsage usage = client.answer(messages, [&](const AnswerEvents& events) {
    for (const AnswerEvent& e : events) (e.kind == AnswerEvent::Kind::reasoning ? thinking : answer) += e.text;
    return true;
  });
  EXPECT_EQ(thinking, "hm");
  EXPECT_EQ(answer, "yes, I d");  // of 12 tokens
  EXPECT_EQ(usage.tokens, 12);
  EXPECT_EQ(usage.prompt_tokens, 5);

  EXPECT_NE(error_of([&] { ChatClient wrong(options("other")); }).find("Incorrect API key"), std::string::npos);
  texts_.most_waiting = 0;
  EXPECT_NE(error_of([&] { client.answer(messages, [](const AnswerEvents&) { return true; }); }).find("queue is full"),
            std::string::npos);
}

}  // namespace
}  // namespace sluice::test
