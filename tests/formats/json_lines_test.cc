#include "formats/json_lines.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "../base/temp_dir.h"

namespace sluice {
namespace {

JsonRecord parse(std::string_view line) { return parse_json_record(line, "data.jsonl", 7); }

TEST(JsonLines, ReadsRecords) {
  const JsonRecord text = parse(R"({"id": 3, "text": "a\n\"é\u00e9\ud83d\ude00"})");
  EXPECT_EQ(text.text, "a\n\"éé😀");
  EXPECT_TRUE(text.messages.empty());
  EXPECT_EQ(parse(R"({"text":""})").text, "");
  const JsonRecord chat = parse(
      R"({"messages":[{"role":"user","content":"Hi","weight":1},{"role":"assistant","content":null}],"source":"x"})");
  EXPECT_FALSE(chat.text);
  EXPECT_EQ(chat.messages, (std::vector<ChatMessage>{{"user", "Hi"}, {"assistant", ""}}));
}

TEST(JsonLines, RefusesOtherLines) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "malformed JSON"},
      {"{", "malformed JSON"},
      {"{\"text\":\"\xff\"}", "malformed JSON"},
      {R"({"text":"a"} {})", "malformed JSON"},
      {"[]", "expected a JSON object, found []"},
      {"3", "expected a JSON object, found 3"},
      {"{}", "found neither"},
      {R"({"text":"a","messages":[]})", "found both"},
      {R"({"text":1})", "text: expected a string, found 1"},
      {R"({"text":"a","text":"b"})", "duplicate key \"text\""},
      {R"({"messages":{}})", "messages: expected an array of at least one message"},
      {R"({"messages":[]})", "messages: expected an array of at least one message"},
      {R"({"messages":[{"role":"user","content":"a"},3]})", "messages[1]: expected an object, found 3"},
      {R"({"messages":[{"content":"a"}]})", "messages[0]: role: expected a string, found nothing"},
      {R"({"messages":[{"role":"user"}]})", "messages[0]: content: expected a string, found nothing"},
      {R"({"messages":[{"role":"user","content":["a"]}]})", "messages[0]: content: expected a string"},
  };
  for (const auto& c : cases) {
    const std::string text = error_of([&] { parse(c.first); });
    EXPECT_NE(text.find(c.second), std::string::npos) << c.first << "\n  gives: " << text;
    EXPECT_TRUE(text.starts_with("data.jsonl:7: ")) << text;
  }
  EXPECT_NE(error_of([] { parse(std::string_view("{\"text\":\"a\"}\0x", 14)); }).find("zero byte"), std::string::npos);
  const std::string deep = "{\"text\":" + std::string(100000, '[');
  EXPECT_NE(error_of([&] { parse(deep); }).find("nested deeper"), std::string::npos);
}

TEST(JsonLines, WritesObjectsInOrder) {
  const std::vector<double> loss = {1.5, 0.1};
  const std::string line = JsonObject()
                               .add("step", 12)
                               .add("big", UINT64_MAX)
                               .add("small", int64_t{INT64_MIN})
                               .add("ok", true)
                               .add("loss", loss)
                               .add("lr", 0.1f)
                               .add("nan", std::numeric_limits<double>::quiet_NaN())
                               .add("inf", -std::numeric_limits<float>::infinity())
                               .add("name", std::string("a\"b"))
                               .add("inner", JsonObject().add("x", "y"))
                               .add("empty", std::vector<int>{})
                               .add("load", std::vector<std::vector<int>>{{1, 2}, {3}})
                               .add("list", std::vector<JsonObject>(2))
                               .str();
  EXPECT_EQ(line,
            R"({"step":12,"big":18446744073709551615,"small":-9223372036854775808,"ok":true,"loss":[1.5,0.1],"lr":0.1,)"
            R"("nan":null,"inf":null,"name":"a\"b","inner":{"x":"y"},"empty":[],"load":[[1,2],[3]],"list":[{},{}]})");
  EXPECT_EQ(JsonObject().str(), "{}");
}

TEST(JsonLines, NumbersReadBackExactly) {
  for (const double v : {1.0 / 3, 1e300, 5e-324, 0.0, 123456789.125, 1e22, 0.1 + 0.2})
    EXPECT_EQ(nlohmann::json::parse(JsonObject().add("v", v).str())["v"].get<double>(), v);
  for (const float v : {1.0f / 3, 3e38f, 1e-45f})
    EXPECT_EQ(nlohmann::json::parse(JsonObject().add("v", v).str())["v"].get<float>(), v);
}

TEST(JsonLines, EscapesStrings) {
  std::string all;
  for (int i = 0; i < 128; ++i) all += static_cast<char>(i);
  all += "\u2028 é 😀";
  const std::string line = JsonObject().add(all, all).str();
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(line)[all].get<std::string>(), all);
  EXPECT_EQ(JsonObject().add("a", "x\xffy\xc3").str(), "{\"a\":\"x\xef\xbf\xbdy\xef\xbf\xbd\"}");
}

}  // namespace
}  // namespace sluice
