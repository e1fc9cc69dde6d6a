// Bodies of requests -> plain structs.
#include <gtest/gtest.h>

#include "serve/api_error.h"
#include "serve/chat_completion.h"
#include "serve/completion.h"

namespace sluice {
namespace {

GenerateOptions defaults() {
  GenerateOptions o;
  o.max_tokens = 4000;
  o.rule.temperature = 0.6f;
  o.vocab_limit = 300;
  o.stop_ids = {1};
  return o;
}

/// "status param: message" of the ApiError that `fn` throws.
template <class F>
std::string refusal_of(F&& fn) {
  try {
    fn();
  } catch (const ApiError& e) {
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
    return std::to_string(e.status) + " " + e.param + ": " + e.what();
  }
  return "accepted";
}

Completion completion(const std::string& fields) {
  return parse_completion(parse_body(R"({"prompt": "a")" + fields + "}"), defaults());
}

ChatCompletion chat(const std::string& fields) {
  return parse_chat_completion(parse_body(R"({"messages": [{"role": "user", "content": "hi"}])" + fields + "}"),
                               defaults());
}

TEST(Body, IsAnObjectOfBoundedDepthInUtf8) {
  std::string deep = R"({"a":)";
  for (int i = 0; i < 100000; ++i) deep += '[';
  for (const std::string& body :
       {std::string(), std::string("[1]"), std::string("{\"a\":1"), std::string("{\"a\":\"\xFF\"}"),
        std::string("{\"a\":1,\"a\":2}"), std::string("{} x"), std::string("{\"a\":\0}", 7), deep})
    EXPECT_TRUE(refusal_of([&] { parse_body(body); }).starts_with("400 : body: ")) << body.substr(0, 40);
  EXPECT_EQ(parse_body("{\"b\":1,\"a\":2}").begin().key(), "b");
}

TEST(TextRequest, DefaultsAndValues) {
  const TextRequest plain = completion("").text;
  EXPECT_FLOAT_EQ(plain.options.rule.temperature, 0.6f);
  EXPECT_EQ(plain.options.max_tokens, 16);
  EXPECT_EQ(plain.options.stop_ids, std::vector<int32_t>{1});
  EXPECT_EQ(plain.num_texts, 1);
  EXPECT_NE(plain.options.seed, completion("").text.options.seed);

  const TextRequest r =
      completion(R"(, "model": "m", "user": "u", "temperature": 0, "top_p": 0.5, "min_p": 0.1, "top_k": 7, "n": 3,
                    "repetition_penalty": 1.5, "frequency_penalty": -2, "presence_penalty": 2, "seed": 5, "stream": true,
                    "max_tokens": 9, "stream_options": {"include_usage": true}, "stop": "x",
                    "logit_bias": {"5": -100, "299": 1.5}, "unknown": {}, "top_logprobs": null)")
          .text;
  EXPECT_EQ(r.model, "m");
  EXPECT_EQ(r.user, "u");
  const SamplingRule& rule = r.options.rule;
  EXPECT_EQ(rule.temperature, 0);
  EXPECT_FLOAT_EQ(rule.top_p, 0.5f);
  EXPECT_FLOAT_EQ(rule.min_p, 0.1f);
  EXPECT_EQ(rule.top_k, 7);
  EXPECT_FLOAT_EQ(rule.repetition_penalty, 1.5f);
  EXPECT_EQ(rule.frequency_penalty, -2);
  EXPECT_EQ(rule.presence_penalty, 2);
  EXPECT_EQ(r.options.max_tokens, 9);
  EXPECT_EQ(r.num_texts, 3);
  EXPECT_TRUE(r.stream && r.include_usage);
  EXPECT_EQ(r.stops, std::vector<std::string>{"x"});
  ASSERT_EQ(r.options.logit_bias.size(), 2u);
  EXPECT_EQ(r.options.logit_bias[1].id, 299);
  EXPECT_FLOAT_EQ(r.options.logit_bias[1].bias, 1.5f);
  // The first text has the seed that was given; the others have their own, always the same.
  EXPECT_EQ(r.options_of(0).seed, 5u);
  EXPECT_NE(r.options_of(1).seed, r.options_of(2).seed);
  EXPECT_EQ(r.options_of(1).seed, completion(R"(, "seed": 5)").text.options_of(1).seed);
}

TEST(TextRequest, NameOfTheUserIsShort) {
  EXPECT_EQ(completion(", \"user\": \"" + std::string(512, 'u') + "\"").text.user.size(), 512u);
  EXPECT_EQ(refusal_of([] { completion(", \"user\": \"" + std::string(513, 'u') + "\""); }),
            "400 user: user: expected at most 512 bytes, found 513");
}

TEST(TextRequest, BothNamesOfTheLength) {
  EXPECT_EQ(completion(R"(, "max_completion_tokens": 3)").text.options.max_tokens, 3);
  EXPECT_EQ(completion(R"(, "max_completion_tokens": 3, "max_tokens": 3)").text.options.max_tokens, 3);
  EXPECT_NE(refusal_of([] { completion(R"(, "max_completion_tokens": 3, "max_tokens": 4)"); }), "accepted");
}

TEST(TextRequest, ValuesOutOfRangeAreRefusedByName) {
  const struct {
    const char *fields, *param;
  } cases[] = {
      {R"("temperature": 2.1)", "temperature"},
      {R"("temperature": "1")", "temperature"},
      {R"("temperature": -0.1)", "temperature"},
      {R"("temperature": 1e999)", ""},
      {R"("top_p": 1.1)", "top_p"},
      {R"("top_k": -2)", "top_k"},
      {R"("top_k": 1.5)", "top_k"},
      {R"("min_p": 2)", "min_p"},
      {R"("n": 0)", "n"},
      {R"("n": 129)", "n"},
      {R"("n": 18446744073709551615)", "n"},
      {R"("max_tokens": -1)", "max_tokens"},
      {R"("max_tokens": 1e3)", "max_tokens"},
      {R"("presence_penalty": 3)", "presence_penalty"},
      {R"("frequency_penalty": [])", "frequency_penalty"},
      {R"("repetition_penalty": 0)", "repetition_penalty"},
      {R"("seed": 1.5)", "seed"},
      {R"("stream": 1)", "stream"},
      {R"("stop": 1)", "stop"},
      {R"("stop": [""])", "stop"},
      {R"("stop": [[]])", "stop"},
      {R"("model": 1)", "model"},
      {R"("logit_bias": {"x": 1})", "logit_bias"},
      {R"("logit_bias": {"300": 1})", "logit_bias"},
      {R"("logit_bias": {"-1": 1})", "logit_bias"},
      {R"("logit_bias": {"5": 101})", "logit_bias.5"},
      {R"("logit_bias": [1])", "logit_bias"},
      {R"("stream_options": {})", "stream_options"},
      {R"("stream": true, "stream_options": {"include_usage": 1})", "stream_options.include_usage"},
  };
  for (const auto& c : cases)
    EXPECT_TRUE(
        refusal_of([&] { completion(std::string(", ") + c.fields); }).starts_with(std::string("400 ") + c.param + ": "))
        << c.fields << "\n"
        << refusal_of([&] { completion(std::string(", ") + c.fields); });
}

TEST(TextRequest, StopStringsAreBounded) {
  std::string many, sixteen;
  for (int i = 0; i < 10000; ++i) many += (i ? ",\"s" : "\"s") + std::to_string(i) + "\"";
  for (int i = 0; i < 16; ++i) sixteen += (i ? ",\"s" : "\"s") + std::to_string(i) + "\"";
  EXPECT_NE(refusal_of([&] { completion(", \"stop\": [" + many + "]"); }).find("found 10000"), std::string::npos);
  EXPECT_EQ(completion(", \"stop\": [" + sixteen + "]").text.stops.size(), 16u);
  EXPECT_NE(refusal_of([&] { completion(", \"stop\": \"" + std::string(1025, 'x') + "\""); }), "accepted");
}

TEST(CompletionRequest, FormsOfThePrompt) {
  const auto prompts = [](const std::string& prompt) {
    return parse_completion(parse_body("{\"prompt\": " + prompt + "}"), defaults()).prompts;
  };
  EXPECT_EQ(std::get<std::string>(prompts("\"text\"")[0]), "text");
  EXPECT_EQ(std::get<std::vector<int32_t>>(prompts("[1, 2, 299]")[0]), (std::vector<int32_t>{1, 2, 299}));
  EXPECT_EQ(prompts("[\"a\", \"b\"]").size(), 2u);
  EXPECT_EQ(std::get<std::vector<int32_t>>(prompts("[[1], [2, 3]]")[1]), (std::vector<int32_t>{2, 3}));
  for (const char* bad : {"null", "1", "[]", "{}", "[1, \"a\"]", "[1, 300]", "[1, -1]", "[1.5]", "[[1], 2]", "[null]"})
    EXPECT_TRUE(refusal_of([&] { prompts(bad); }).starts_with("400 prompt: ")) << bad;
}

TEST(CompletionRequest, WhatDoesNotGoTogether) {
  EXPECT_EQ(*completion(R"(, "suffix": "b")").suffix, "b");
  EXPECT_FALSE(completion(R"(, "suffix": "")").suffix);
  EXPECT_EQ(*completion(R"(, "logprobs": 5, "echo": true, "max_tokens": 0)").top_logprobs, 5);
  EXPECT_TRUE(refusal_of([] { completion(R"(, "suffix": "b", "echo": true)"); }).starts_with("400 echo: "));
  EXPECT_TRUE(refusal_of([] { completion(R"(, "best_of": 2)"); }).starts_with("400 best_of: "));
  EXPECT_TRUE(refusal_of([] { completion(R"(, "max_tokens": 0)"); }).starts_with("400 max_tokens: "));
  EXPECT_TRUE(refusal_of([] { completion(R"(, "logprobs": 21)"); }).starts_with("400 logprobs: "));
  EXPECT_TRUE(refusal_of([] {
                parse_completion(parse_body(R"({"prompt": ["a", "b"], "n": 65})"), defaults());
              }).starts_with("400 n: "));
}

TEST(ChatRequest, ResponseFormats) {
  using Kind = ResponseFormat::Kind;
  EXPECT_EQ(chat("").format.kind, Kind::text);
  EXPECT_EQ(chat(R"(, "response_format": {"type": "text"})").format.kind, Kind::text);
  EXPECT_EQ(chat(R"(, "response_format": {"type": "json_object"})").format.kind, Kind::json_object);
  const ResponseFormat schema =
      chat(R"(, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"z": 1, "a": 2}}})")
          .format;
  EXPECT_EQ(schema.kind, Kind::json_schema);
  EXPECT_EQ(schema.schema, R"({"z":1,"a":2})");
  for (const char* bad : {R"({"type": "xml"})", R"({})", R"("json")", R"({"type": "json_schema"})",
                          R"({"type": "json_schema", "json_schema": {"schema": "x"}})"})
    EXPECT_TRUE(
        refusal_of([&] { chat(std::string(", \"response_format\": ") + bad); }).starts_with("400 response_format"))
        << bad;
}

TEST(ChatRequest, LogprobsAndOldFields) {
  EXPECT_FALSE(chat("").top_logprobs);
  EXPECT_EQ(*chat(R"(, "logprobs": true)").top_logprobs, 0);
  EXPECT_EQ(*chat(R"(, "logprobs": true, "top_logprobs": 20)").top_logprobs, 20);
  EXPECT_EQ(chat("").text.options.max_tokens, 4000);
  EXPECT_FALSE(chat(R"(, "parallel_tool_calls": false)").parallel_calls);
  EXPECT_TRUE(refusal_of([] { chat(R"(, "top_logprobs": 2)"); }).starts_with("400 top_logprobs: "));
  EXPECT_TRUE(refusal_of([] { chat(R"(, "functions": [])"); }).starts_with("400 functions: "));
  EXPECT_TRUE(refusal_of([] { chat(R"(, "max_tokens": 0)"); }).starts_with("400 max_tokens: "));
  EXPECT_TRUE(refusal_of([] {
                parse_chat_completion(parse_body(R"({"messages": 3})"), defaults());
              }).starts_with("400 messages: "));
}

}  // namespace
}  // namespace sluice
