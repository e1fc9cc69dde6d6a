// The strict JSON reader: its limits, and its time.
#include "formats/json.h"

#include <gtest/gtest.h>

#include <chrono>

#include "../base/temp_dir.h"

namespace sluice {
namespace {

/// [element, element, ...]
std::string array_of(const std::string& element, size_t count) {
  std::string text = "[";
  for (size_t i = 0; i < count; ++i) text += (i ? "," : "") + element;
  return text + "]";
}

/// {"k0":0,"k1":0,...}
std::string object_of(size_t count) {
  std::string text = "{";
  for (size_t i = 0; i < count; ++i) text += (i ? ",\"k" : "\"k") + std::to_string(i) + "\":0";
  return text + "}";
}

std::string refusal_of(const std::string& text) {
  return error_of([&] { parse_ordered_json(text, "body"); });
}

template <class F>
double seconds_of(F&& fn) {
  const auto begin = std::chrono::steady_clock::now();
  fn();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

TEST(Json, ReadsWhatTheLibraryReads) {
  for (const char* text : {"null", " true ", "-1", "18446744073709551615", "18446744073709551616",
                           "-9223372036854775808", "1.5e3", R"("")", R"("a\u00e9\ud83d\ude00\n")", "[]", "{}",
                           "[[],{},[[1]],{}]", R"({"z":[1,{"y":null,"b":[false]}],"a":{"":{}},"m":"x","c":[]})"}) {
    EXPECT_EQ(parse_json(text, "f"), Json::parse(text)) << text;
    EXPECT_EQ(parse_json(text, "f").type(), Json::parse(text).type()) << text;
    EXPECT_EQ(parse_ordered_json(text, "f").dump(), OrderedJson::parse(text).dump()) << text;
  }
}

TEST(Json, RefusesWhatIsNoDocument) {
  for (const char* text :
       {"", " ", "{", "[1,]", "{}{}", "[1}", R"({"a"})", "1e400", "\"\xff\"", "'a'", "nul", "[1]x"}) {
    EXPECT_TRUE(refusal_of(text).starts_with("body: malformed JSON: ")) << text << ": " << refusal_of(text);
    EXPECT_TRUE(error_of([&] { parse_json(text, "f"); }).starts_with("f: malformed JSON: ")) << text;
  }
}

TEST(Json, DuplicateKeysAreThoseOfOneObject) {
  EXPECT_EQ(refusal_of(R"({"a":{"b":1},"c":[{"b":1},{"b":2}]})"), "");
  EXPECT_EQ(refusal_of(R"({"a":{"b":1,"c":{"b":2},"b":3}})"), "body: duplicate key \"b\"");
  EXPECT_EQ(error_of([] { parse_json(R"([{"a":1,"\u0061":2}])", "f"); }), "f: duplicate key \"a\"");
}

TEST(Json, Depth) {
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(refusal_of(nested(64)), "");
  EXPECT_EQ(refusal_of(nested(65)), "body: JSON is nested deeper than 64");
  EXPECT_EQ(refusal_of(std::string(1'000'000, '[')), "body: JSON is nested deeper than 64");
}

TEST(Json, KeysOfAnObjectWhoseOrderIsKept) {
  EXPECT_EQ(refusal_of(object_of(4096)), "");
  EXPECT_EQ(refusal_of(object_of(4097)), "body: an object has more than 4096 keys");
  EXPECT_EQ(parse_json(object_of(300'000), "f").size(), 300'000u);
}

TEST(Json, NumberOfValues) {
  const size_t most = size_t{1} << 20;  // with the array itself
  EXPECT_EQ(parse_ordered_json(array_of("0", most - 1), "body").size(), most - 1);
  for (const char* element : {"0", "{}", "[]", R"({"a":1})"})
    EXPECT_EQ(refusal_of(array_of(element, most)), "body: JSON has more than 1048576 values") << element;
  // A tokenizer of 300,000 tokens and merges as pairs.
  EXPECT_EQ(parse_json(array_of(R"(["a","b"])", 300'000), "f").size(), 300'000u);
  EXPECT_EQ(error_of([] { parse_json(array_of("0", size_t{8} << 20), "f"); }), "f: JSON has more than 8388608 values");
}

// Each object of an array once cost time in proportion to all before it: 5 s for 100,000, hours for a body of 16 MiB.
TEST(Json, TimeIsInProportionToTheText) {
  for (const char* element : {"{}", "[]", R"({"a":1})"}) {
    const auto seconds = [&](size_t count) {
      const std::string text = R"({"prompt":"a","x":)" + array_of(element, count) + "}";
      return seconds_of([&] { EXPECT_EQ(parse_ordered_json(text, "body")["x"].size(), count); });
    };
    const double half = seconds(200'000), whole = seconds(400'000);
    EXPECT_LT(whole, 3 * half + 0.2) << element;
    EXPECT_LT(whole, 2) << element;
  }
}

}  // namespace
}  // namespace sluice
