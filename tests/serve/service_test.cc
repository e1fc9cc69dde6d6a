// The service without sockets: addresses, responses and streams, logs and metrics.
#include "service_fixture.h"

namespace sluice::test {
namespace {

TEST_F(ServiceTest, ChatCompletion) {
  const Json r = answer("/v1/chat/completions", chat_body(R"(, "model": "other", "seed": 3, "max_tokens": 3)"));
  EXPECT_EQ(r["object"], "chat.completion");
  EXPECT_EQ(r["model"], "other");
  EXPECT_TRUE(r["id"].get<std::string>().starts_with("chatcmpl-"));
  ASSERT_EQ(r["choices"].size(), 1u);
  EXPECT_EQ(r["choices"][0]["message"]["content"], "hel");
  EXPECT_EQ(r["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(r["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(r["choices"][0]["logprobs"].is_null());
  ASSERT_EQ(texts_.requests.size(), 1u);
  const auto& seen = texts_.requests[0];
  EXPECT_EQ(tokenizer().decode(seen.prompt, false), "<｜begin▁of▁sentence｜><｜User｜>secret question<｜Assistant｜>");
  EXPECT_EQ(seen.options.seed, 3u);
  EXPECT_FALSE(seen.constrained);
  const auto prompt = static_cast<int64_t>(seen.prompt.size());
  const Json& u = r["usage"];
  EXPECT_EQ(u["prompt_tokens"], prompt);
  EXPECT_EQ(u["completion_tokens"], 3);
  EXPECT_EQ(u["total_tokens"], prompt + 3);
  EXPECT_EQ(u["prompt_cache_hit_tokens"], prompt / 2);
  EXPECT_EQ(u["prompt_cache_miss_tokens"], prompt - prompt / 2);
  EXPECT_EQ(u["prompt_tokens_details"]["cached_tokens"], prompt / 2);
}

TEST_F(ServiceTest, ChatStreamWithUsage) {
  const HttpResponse r =
      post("/v1/chat/completions", chat_body(R"(, "stream": true, "stream_options": {"include_usage": true})"));
  EXPECT_EQ(r.status, 200);
  EXPECT_TRUE(r.content_type.starts_with("text/event-stream"));
  const std::vector<Json> events = events_of(r.body);
  ASSERT_GE(events.size(), 4u);
  EXPECT_EQ(events[0]["choices"][0]["delta"], (Json{{"role", "assistant"}, {"content", ""}}));
  std::string text;
  for (size_t i = 1; i + 1 < events.size(); ++i) {
    EXPECT_EQ(events[i]["object"], "chat.completion.chunk");
    EXPECT_TRUE(events[i]["usage"].is_null());
    text += events[i]["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(text, "hello");
  EXPECT_EQ(events[events.size() - 2]["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(events.back()["choices"].empty());
  EXPECT_EQ(events.back()["usage"]["completion_tokens"], 5);
}

TEST_F(ServiceTest, ReasoningIsSplitOff) {
  texts_.text = "<think>\nwhy</think>\n\nso";
  const Json r = answer("/chat/completions", chat_body(""));
  EXPECT_EQ(r["choices"][0]["message"]["reasoning_content"], "why");
  EXPECT_EQ(r["choices"][0]["message"]["content"], "so");
  EXPECT_GT(r["usage"]["completion_tokens_details"]["reasoning_tokens"], 2);

  std::string reasoning, content;
  for (const Json& e : events_of(post("/chat/completions", chat_body(R"(, "stream": true)")).body)) {
    const Json& delta = e["choices"][0]["delta"];
    if (delta.contains("reasoning_content")) {
      EXPECT_TRUE(delta["content"].is_null());
      EXPECT_EQ(content, "");
      reasoning += delta["reasoning_content"];
    } else {
      content += delta.value("content", "");
    }
  }
  EXPECT_EQ(reasoning, "why");
  EXPECT_EQ(content, "so");
}

TEST_F(ServiceTest, ToolCallsWholeAndStreamed) {
  texts_.text =
      "Looking.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": "
      "\"Rome\"}\n```"
      "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>time\n```json\n{}\n```<｜tool▁call▁end｜><"
      "｜tool▁calls▁end｜>";
  const std::string tools =
      R"(, "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},
                     {"type": "function", "function": {"name": "time"}}])";
  const Json message = answer("/v1/chat/completions", chat_body(tools))["choices"][0];
  EXPECT_EQ(message["finish_reason"], "tool_calls");
  EXPECT_EQ(message["message"]["content"], "Looking.");
  ASSERT_EQ(message["message"]["tool_calls"].size(), 2u);
  EXPECT_EQ(message["message"]["tool_calls"][0]["function"]["name"], "weather");
  EXPECT_EQ(message["message"]["tool_calls"][0]["function"]["arguments"], R"({"city": "Rome"})");
  EXPECT_EQ(message["message"]["tool_calls"][0]["type"], "function");
  EXPECT_NE(message["message"]["tool_calls"][0]["id"], message["message"]["tool_calls"][1]["id"]);

  std::vector<std::string> names(2), arguments(2);
  for (const Json& e : events_of(post("/v1/chat/completions", chat_body(tools + R"(, "stream": true)")).body)) {
    const Json& delta = e["choices"][0]["delta"];
    if (!delta.contains("tool_calls")) continue;
    const Json& call = delta["tool_calls"][0];
    const size_t index = call["index"];
    ASSERT_LT(index, 2u);
    EXPECT_EQ(call.contains("id"), names[index].empty());
    if (call.contains("id")) names[index] = call["function"]["name"];
    arguments[index] += call["function"].value("arguments", "");
  }
  EXPECT_EQ(names, (std::vector<std::string>{"weather", "time"}));
  EXPECT_EQ(arguments[0], R"({"city": "Rome"})");

  const Json one = answer("/v1/chat/completions", chat_body(tools + R"(, "parallel_tool_calls": false)"))["choices"][0];
  EXPECT_EQ(one["message"]["tool_calls"].size(), 1u);
}

TEST_F(ServiceTest, LogprobsOfAChat) {
  texts_.text = "h\xC3\xA9";
  const Json r = answer("/v1/chat/completions", chat_body(R"(, "logprobs": true, "top_logprobs": 2)"));
  const Json& content = r["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 3u);
  EXPECT_EQ(content[0]["token"], "h");
  EXPECT_EQ(content[0]["logprob"], -0.5);
  EXPECT_EQ(content[0]["bytes"], Json({104}));
  EXPECT_EQ(content[0]["top_logprobs"].size(), 2u);
  EXPECT_EQ(content[1]["bytes"], Json({0xC3}));
  // In a stream, every token's entry comes once, with the text that it completes.
  size_t entries = 0;
  for (const Json& e : events_of(post("/v1/chat/completions", chat_body(R"(, "logprobs": true, "stream": true)")).body))
    if (!e["choices"][0]["logprobs"].is_null()) entries += e["choices"][0]["logprobs"]["content"].size();
  EXPECT_EQ(entries, 3u);
}

TEST_F(ServiceTest, SeveralTexts) {
  const Json r = answer("/v1/chat/completions", chat_body(R"(, "n": 3, "seed": 1)"));
  ASSERT_EQ(r["choices"].size(), 3u);
  EXPECT_EQ(r["choices"][2]["index"], 2);
  EXPECT_EQ(r["choices"][2]["message"]["content"], "hello");
  EXPECT_EQ(r["usage"]["completion_tokens"], 15);
  EXPECT_EQ(r["usage"]["prompt_tokens"], texts_.requests[0].prompt.size());
  EXPECT_NE(texts_.requests[1].options.seed, texts_.requests[2].options.seed);
}

TEST_F(ServiceTest, StopStringsEndTheText) {
  const Json r = answer("/v1/chat/completions", chat_body(R"(, "stop": ["ll", "zz"])"))["choices"][0];
  EXPECT_EQ(r["message"]["content"], "he");
  EXPECT_EQ(r["finish_reason"], "stop");
}

TEST_F(ServiceTest, FormsAreGuaranteedByAConstraint) {
  const std::string schema =
      R"(, "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}})";
  post("/v1/chat/completions", chat_body(schema));
  EXPECT_TRUE(texts_.requests[0].constrained);
  const std::string tools =
      R"(, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}])";
  EXPECT_EQ(refusal(post("/v1/chat/completions", chat_body(schema + tools)), 400)["param"], "response_format");
  post("/v1/chat/completions", chat_body(tools + R"(, "tool_choice": "required")"));
  EXPECT_TRUE(texts_.requests[1].constrained);
  EXPECT_TRUE(tokenizer().decode(texts_.requests[1].prompt, false).ends_with("function<｜tool▁sep｜>"));
  post("/v1/chat/completions", chat_body(tools));
  EXPECT_FALSE(texts_.requests[2].constrained);
  const std::string bad =
      R"(, "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": 7}}})";
  EXPECT_EQ(refusal(post("/v1/chat/completions", chat_body(bad)), 400)["param"], "response_format.json_schema.schema");
  EXPECT_EQ(refusal(post("/chat/completions", chat_body(bad)), 422)["type"], "invalid_request_error");
}

TEST_F(ServiceTest, Completion) {
  const Json r = answer("/v1/completions", R"({"prompt": "ab", "logprobs": 2, "echo": true, "max_tokens": 2})");
  EXPECT_EQ(r["object"], "text_completion");
  const Json& c = r["choices"][0];
  EXPECT_EQ(c["text"], "abhe");
  EXPECT_EQ(c["finish_reason"], "length");
  EXPECT_EQ(c["logprobs"]["tokens"], Json({"<｜begin▁of▁sentence｜>", "a", "b", "h", "e"}));
  EXPECT_EQ(c["logprobs"]["token_logprobs"], Json({nullptr, -0.5, -0.5, -0.5, -0.5}));
  EXPECT_EQ(c["logprobs"]["text_offset"], Json({0, 0, 1, 2, 3}));
  EXPECT_EQ(c["logprobs"]["top_logprobs"][1], (Json{{"a", -0.5}, {"b", -1.5}}));
}

/// Tokens that are parts of a character stand where it stands, in the text that is returned.
TEST_F(ServiceTest, OffsetsOfPartsOfCharacters) {
  texts_.text = "é!";
  const Json c = answer("/v1/completions", R"({"prompt": "😀a", "logprobs": 1, "echo": true})")["choices"][0];
  EXPECT_EQ(c["text"], "😀aé!");
  const Json& l = c["logprobs"];
  EXPECT_EQ(l["tokens"], Json({"<｜begin▁of▁sentence｜>", "bytes:\\xf0", "bytes:\\x9f", "bytes:\\x98", "bytes:\\x80",
                               "a", "bytes:\\xc3", "bytes:\\xa9", "!"}));
  EXPECT_EQ(l["text_offset"], Json({0, 0, 0, 0, 0, 1, 2, 2, 3}));
  EXPECT_EQ(l["top_logprobs"][1], (Json{{"bytes:\\xf0", -0.5}, {"bytes:\\xf1", -1.5}}));
  // A prompt that ends in mid-character: what is missing is U+FFFD in the text, and its end another.
  texts_.text = "!";
  const Json cut =
      answer("/v1/completions", R"({"prompt": [97, 240, 159], "logprobs": 0, "echo": true})")["choices"][0];
  EXPECT_EQ(cut["text"], "a\uFFFD!");
  EXPECT_EQ(cut["logprobs"]["text_offset"], Json({0, 1, 1, 2}));
}

TEST_F(ServiceTest, CompletionsOfSeveralPromptsStreamed) {
  const HttpResponse r =
      post("/completions", R"({"prompt": ["a", [98, 99]], "n": 2, "stream": true, "max_tokens": 3, "echo": true})");
  std::vector<std::string> texts(4);
  for (const Json& e : events_of(r.body)) texts.at(e["choices"][0]["index"]) += e["choices"][0]["text"];
  EXPECT_EQ(texts, (std::vector<std::string>{"ahel", "ahel", "bchel", "bchel"}));
}

TEST_F(ServiceTest, FillInTheMiddle) {
  answer("/beta/completions", R"({"prompt": "def <｜User｜>", "suffix": "end"})");
  EXPECT_EQ(tokenizer().decode(texts_.requests[0].prompt, false),
            "<｜begin▁of▁sentence｜><｜fim▁begin｜>def <｜User｜><｜fim▁hole｜>end<｜fim▁end｜>");
  // What the client typed is no special token.
  EXPECT_GT(texts_.requests[0].prompt.size(), 20u);
}

/// As of a schema that turns out to be too ambiguous.
TEST_F(ServiceTest, MistakesThatShowWhileTheTextIsWritten) {
  texts_.ending = Finish::failed;
  EXPECT_EQ(refusal(post("/v1/chat/completions", chat_body("")), 500)["type"], "server_error");
  texts_.mistake = "schema: too ambiguous";
  const Json e = refusal(post("/v1/chat/completions", chat_body("")), 400);
  EXPECT_EQ(e["param"], "schema");
  EXPECT_EQ(e["type"], "invalid_request_error");
}

TEST_F(ServiceTest, ContextLength) {
  for (const char* path : {"/v1/completions", "/completions"}) {
    const Json e = refusal(post(path, R"({"prompt": ")" + std::string(4000, 'a') + "\"}"), 400);
    EXPECT_EQ(e["code"], "context_length_exceeded");
    EXPECT_EQ(e["param"], "prompt");
    EXPECT_NE(e["message"].get<std::string>().find("maximum context length is 4000 tokens"), std::string::npos) << e;
  }
  EXPECT_TRUE(texts_.requests.empty());
}

TEST_F(ServiceTest, RefusalsByStatus) {
  EXPECT_EQ(refusal(post("/v1/chat/completions", "{"), 400)["param"], nullptr);
  EXPECT_EQ(refusal(post("/chat/completions", "{"), 400)["type"], "invalid_request_error");
  EXPECT_EQ(refusal(post("/v1/chat/completions", chat_body(R"(, "temperature": 3)")), 400)["param"], "temperature");
  EXPECT_EQ(refusal(post("/chat/completions", chat_body(R"(, "temperature": 3)")), 422)["param"], "temperature");
  EXPECT_EQ(refusal(post("/v1/chat/completions", chat_body(R"(, "model": "gpt")")), 404)["code"], "model_not_found");
  EXPECT_EQ(refusal(get("/v1/chat/completions"), 405)["code"], "method_not_supported");
  EXPECT_EQ(refusal(post("/v1/embeddings", "{}"), 404)["code"], "unknown_url");
  for (const char* other : {"/v1/responses", "/v1/messages"})
    EXPECT_NE(refusal(post(other, "{}"), 404)["message"].get<std::string>().find("/v1/chat/completions"),
              std::string::npos);
  texts_.most_waiting = 0;
  EXPECT_EQ(refusal(post("/v1/chat/completions", chat_body("")), 429)["code"], "rate_limit_exceeded");
}

TEST_F(ServiceTest, ModelsAndHealth) {
  EXPECT_EQ(get("/health").status, 200);
  const Json list = Json::parse(get("/models").body);
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"].size(), 2u);
  EXPECT_EQ(list["data"][1]["id"], "other");
  EXPECT_EQ(list["data"][0]["max_model_len"], kContext);
  EXPECT_EQ(list["data"][0]["chat"], true);
  EXPECT_EQ(Json::parse(get("/v1/models/f%61ke").body)["id"], "fake");
  EXPECT_EQ(refusal(get("/v1/models/x"), 404)["code"], "model_not_found");
}

TEST_F(ServiceTest, TokenizeAndBack) {
  const Json r = answer("/tokenize", R"({"prompt": "aé", "return_token_strs": true})");
  EXPECT_EQ(r["tokens"], Json({256, 97, 0xC3, 0xA9}));
  EXPECT_EQ(r["count"], 4);
  EXPECT_EQ(r["token_strs"][1], "a");
  EXPECT_EQ(answer("/tokenize", R"({"prompt": "a", "add_special_tokens": false})")["tokens"], Json({97}));
  EXPECT_EQ(answer("/tokenize", std::string(kHello) + "}")["tokens"][1], 258);
  EXPECT_EQ(answer("/detokenize", R"({"tokens": [256, 97, 195, 169]})")["prompt"], "<｜begin▁of▁sentence｜>aé");
  refusal(post("/detokenize", R"({"tokens": [-1]})"), 400);
}

TEST_F(ServiceTest, TokenizesAFewContextsAtMost) {
  const auto ids = [](size_t count) {
    std::string text = R"({"tokens": [97)";
    for (size_t i = 1; i < count; ++i) text += ",97";
    return text + "]}";
  };
  const size_t most_ids = 4 * kContext, most_bytes = 32 * kContext;
  EXPECT_EQ(answer("/detokenize", ids(most_ids))["prompt"].get<std::string>().size(), most_ids);
  EXPECT_EQ(refusal(post("/detokenize", ids(most_ids + 1)), 400)["message"],
            "tokens: expected at most 16000 ids, 4 times the context, found 16001");
  const auto prompt = [](size_t bytes) { return R"({"prompt": ")" + std::string(bytes, 'a') + "\"}"; };
  EXPECT_EQ(answer("/tokenize", prompt(most_bytes))["count"], most_bytes + 1);
  EXPECT_EQ(refusal(post("/tokenize", prompt(most_bytes + 1)), 400)["message"],
            "prompt: expected at most 128000 bytes, 32 for each token of the context, found 128001");
  const std::string messages =
      R"({"messages": [{"role": "user", "content": ")" + std::string(most_bytes, 'a') + "\"}]}";
  EXPECT_EQ(refusal(post("/tokenize", messages), 400)["param"], "messages");
}

TEST_F(ServiceTest, RequestIdsAndLogsWithoutPrompts) {
  HttpRequest r = http_request("POST", "/v1/chat/completions", chat_body(""));
  r.headers = {{"x-request-id", "mine-1"}};
  const HttpResponse response = call(r);
  EXPECT_EQ(header(response, "x-request-id"), "mine-1");
  r.headers = {{"x-request-id", "not/mine"}};
  EXPECT_NE(header(call(r), "x-request-id"), "not/mine");
  refusal(post("/v1/completions", R"({"prompt": "secret text", "temperature": "secret number"})"), 400);
  EXPECT_NE(log().find("200 POST \"/v1/chat/completions\""), std::string::npos) << log();
  EXPECT_NE(log().find("id=mine-1"), std::string::npos);
  for (const char* private_text : {"secret", "hello"}) EXPECT_EQ(log().find(private_text), std::string::npos) << log();
}

TEST_F(ServiceTest, Metrics) {
  answer("/v1/chat/completions", chat_body(""));
  const HttpResponse r = get("/metrics");
  EXPECT_TRUE(r.content_type.starts_with("text/plain; version=0.0.4"));
  for (const char* line :
       {"sluice_num_requests_running{model_name=\"fake\"} 1\n", "sluice_kv_cache_usage_perc{model_name=\"fake\"} 0.5\n",
        "sluice_expert_tokens_total{model_name=\"fake\",layer=\"2\",expert=\"1\"} 6\n",
        "sluice_request_success_total{model_name=\"fake\",finished_reason=\"stop\"} 1\n",
        "sluice_time_to_first_token_seconds_bucket{model_name=\"fake\",le=\"0.25\"} 1\n",
        "sluice_time_to_first_token_seconds_bucket{model_name=\"fake\",le=\"0.1\"} 0\n",
        "sluice_time_to_first_token_seconds_bucket{model_name=\"fake\",le=\"+Inf\"} 1\n",
        "sluice_request_generation_tokens_sum{model_name=\"fake\"} 5\n",
        "sluice_http_responses_total{model_name=\"fake\",status=\"2xx\"} 1\n"})
    EXPECT_NE(r.body.find(line), std::string::npos) << line << r.body;
}

TEST_F(ServiceTest, PageAndItsTag) {
  const HttpResponse page = get("/");
  EXPECT_EQ(page.status, 200);
  EXPECT_TRUE(page.content_type.starts_with("text/html"));
  EXPECT_NE(header(page, "Content-Security-Policy"), "");
  HttpRequest again = http_request("GET", "/monitor");
  again.headers = {{"if-none-match", header(get("/monitor"), "ETag")}};
  EXPECT_EQ(call(again).status, 304);
  EXPECT_EQ(refusal(post("/", ""), 405)["code"], "method_not_supported");
}

class WaitingService : public ServiceTest {
 protected:
  WaitingService() : ServiceTest({.keep_alive = std::chrono::milliseconds(40)}) { texts_.held = true; }
};

TEST_F(WaitingService, KeepsClientsAwake) {
  const auto streamed = std::make_shared<RecordingReply>(), whole = std::make_shared<RecordingReply>();
  service_.handle(http_request("POST", "/chat/completions", chat_body(R"(, "stream": true)")), streamed);
  service_.handle(http_request("POST", "/chat/completions", chat_body("")), whole);
  EXPECT_TRUE(streamed->wait_for(": keep-alive\n\n: keep-alive\n\n"));
  EXPECT_TRUE(whole->wait_for("\n\n"));
  texts_.release();
  EXPECT_GE(events_of(streamed->wait().body).size(), 3u);
  const HttpResponse r = whole->wait();
  EXPECT_TRUE(r.body.starts_with("\n\n"));
  EXPECT_EQ(Json::parse(r.body)["choices"][0]["message"]["content"], "hello");
}

TEST_F(WaitingService, OneOfSeveralTextsThatIsRefusedDecidesTheStatus) {
  texts_.most_waiting = 1;
  texts_.cancel_time = std::chrono::milliseconds(100);
  EXPECT_EQ(refusal(post("/v1/chat/completions", chat_body(R"(, "n": 2)")), 429)["code"], "rate_limit_exceeded");
}

TEST_F(ServiceTest, TextsEndAtTheirDeadline) {
  texts_.ending = Finish::expired;
  const auto before = std::chrono::steady_clock::now();
  const Json late = refusal(post("/v1/completions", R"({"prompt": "a"})"), 503);
  EXPECT_EQ(late["code"], "timeout");
  EXPECT_NE(late["message"].get<std::string>().find("30 minutes"), std::string::npos) << late;
  ASSERT_EQ(texts_.requests.size(), 1u);
  const auto deadline = texts_.requests[0].deadline;
  ASSERT_TRUE(deadline.has_value());
  EXPECT_GE(*deadline, before + std::chrono::minutes(30));
  EXPECT_LE(*deadline, std::chrono::steady_clock::now() + std::chrono::minutes(30));
  EXPECT_NE(get("/metrics").body.find("finished_reason=\"abort\"} 1"), std::string::npos) << get("/metrics").body;
}

class BaseModelService : public ServiceTest {
 protected:
  BaseModelService() : ServiceTest({}, false) {}
};

TEST_F(BaseModelService, CompletesButDoesNotChat) {
  EXPECT_EQ(Json::parse(get("/v1/models").body)["data"][0]["chat"], false);
  EXPECT_NE(
      refusal(post("/v1/chat/completions", chat_body("")), 400)["message"].get<std::string>().find("/v1/completions"),
      std::string::npos);
  EXPECT_EQ(answer("/v1/completions", R"({"prompt": "a"})")["choices"][0]["text"], "hello");
}

TEST(LoadingService, Answers503) {
  ServiceOptions options;
  options.log = [](std::string_view) {};
  Service service(options);
  for (const char* path : {"/health", "/v1/models"}) {
    const auto reply = std::make_shared<RecordingReply>();
    service.handle(http_request("GET", path), reply);
    const HttpResponse r = reply->wait();
    EXPECT_EQ(r.status, 503);
    EXPECT_EQ(Json::parse(r.body)["error"]["type"], "unavailable_error");
  }
  const auto metrics = std::make_shared<RecordingReply>();
  service.handle(http_request("GET", "/metrics"), metrics);
  EXPECT_EQ(metrics->wait().status, 200);
}

}  // namespace
}  // namespace sluice::test
