// Random texts of many schemas: all must be JSON and valid by an independent validator.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "validator.h"
#include "walk.h"

namespace sluice {
namespace {

using json = nlohmann::json;

struct Case {
  const char* name;
  const char* schema;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

const Case kCases[] = {
    {"anything", R"(true)"},
    {"empty", R"({"title":"x"})"},
    {"null", R"({"type":"null"})"},
    {"boolean", R"({"type":"boolean"})"},
    {"integer", R"({"type":"integer"})"},
    {"number", R"({"type":"number"})"},
    {"string", R"({"type":"string"})"},
    {"types", R"({"type":["string","null","integer","object"]})"},
    {"lengths", R"({"type":"string","minLength":2,"maxLength":5})"},
    {"min_length", R"({"type":"string","minLength":3})"},
    {"enum", R"({"enum":["a","ab","abc","\"q\"","é\n",1,12,null,true,{"k":[1,2]},1.5]})"},
    {"typed_enum", R"({"type":"string","enum":["red","green",3]})"},
    {"const", R"({"const":"世界"})"},
    {"nullable", R"({"type":"string","enum":["a","b"],"nullable":true})"},
    {"range", R"({"type":"integer","minimum":-12,"maximum":345})"},
    {"lower", R"({"type":"integer","minimum":7})"},
    {"upper", R"({"type":"integer","exclusiveMaximum":-3})"},
    {"fraction", R"({"type":"number","minimum":0,"maximum":1})"},
    {"narrow", R"({"type":"number","exclusiveMinimum":-1.25,"exclusiveMaximum":0.003})"},
    {"old_bounds", R"({"type":"integer","minimum":3,"exclusiveMinimum":true,"maximum":5})"},
    {"person", R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0},
        "tags":{"type":"array","items":{"type":"string"}}},"required":["name","age","tags"],"additionalProperties":false})"},
    {"optional", R"({"type":"object","properties":{"a":{"type":"integer"},"ab":{"type":"null"},"b":{"type":"boolean"},
        "c":{"type":"string"}},"required":["b"],"additionalProperties":false})"},
    {"all_optional", R"({"properties":{"a":{"type":"integer"},"b":{"const":1}},"additionalProperties":false})"},
    {"open", R"({"type":"object","properties":{"a":{"type":"integer"},"é":{"type":"null"}},"required":["é","other"]})"},
    {"map", R"({"type":"object","additionalProperties":{"type":"integer"}})"},
    {"mixed_map", R"({"type":"object","properties":{"a":{"type":"string"},"abc":{"type":"string"}},
        "additionalProperties":{"type":"number"}})"},
    {"odd_names",
     R"({"type":"object","properties":{"":{"type":"null"},"a\"b\n":{"type":"null"}},"required":["a\"b\n"]})"},
    {"any_object", R"({"type":"object"})"},
    {"array", R"({"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":4})"},
    {"any_array", R"({"type":"array"})"},
    {"min_items", R"({"type":"array","items":{"type":"boolean"},"minItems":3})"},
    {"empty_array", R"({"type":"array","maxItems":0})"},
    {"tuple", R"({"type":"array","prefixItems":[{"type":"string"},{"type":"integer"}],"items":{"type":"null"}})"},
    {"closed_tuple",
     R"({"type":"array","prefixItems":[{"const":1},{"const":2},{"const":3}],"items":false,"minItems":1})"},
    {"any_of", R"({"anyOf":[{"type":"object","properties":{"kind":{"const":"a"},"x":{"type":"integer"}},
        "required":["kind","x"]},{"type":"object","properties":{"kind":{"const":"b"},"y":{"type":"string"}},
        "required":["kind","y"],"additionalProperties":false},{"type":"array","items":{"type":"integer"}}]})"},
    {"one_of", R"({"oneOf":[{"type":"string","maxLength":3},{"type":"integer"}]})"},
    {"ambiguous", R"({"anyOf":[{"type":"array","items":{"type":"integer"},"maxItems":2},
        {"type":"array","items":{"type":"number"},"minItems":1}]})"},
    {"any_of_required", R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"}},
        "anyOf":[{"required":["a"]},{"required":["b"]}],"additionalProperties":false})"},
    {"all_of", R"({"allOf":[{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]},
        {"properties":{"b":{"type":"string"},"a":{"minimum":5}},"required":["b"]}]})"},
    {"all_of_any_of",
     R"({"allOf":[{"anyOf":[{"type":"integer"},{"type":"string"}]},{"anyOf":[{"maximum":4,"type":"integer"},
        {"type":"null"}]}]})"},
    {"closed_all_of", R"({"allOf":[{"properties":{"a":{"type":"integer"}},"additionalProperties":{"type":"string"}},
        {"properties":{"b":{"minLength":2}}}],"type":"object"})"},
    {"ref",
     R"({"$defs":{"p":{"type":"integer","minimum":1,"maximum":3}},"type":"array","items":{"$ref":"#/$defs/p"}})"},
    {"ref_and_more", R"({"definitions":{"s":{"type":"string"}},"type":"object","properties":{
        "a":{"$ref":"#/definitions/s","minLength":2,"description":"x"}},"required":["a"],"additionalProperties":false})"},
    {"list", R"({"$defs":{"node":{"type":"object","properties":{"value":{"type":"integer"},"next":{"anyOf":[
        {"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["value","next"],"additionalProperties":false}},
        "$ref":"#/$defs/node"})"},
    {"tree",
     R"({"type":"object","properties":{"name":{"type":"string"},"children":{"type":"array","items":{"$ref":"#"}}},
        "required":["name","children"],"additionalProperties":false})"},
    {"pattern", R"({"type":"string","pattern":"^[A-Z]{2}-\\d{3,5}(?:x|yz)*$"})"},
    {"search", R"({"type":"string","pattern":"ab+c|^x"})"},
    {"pattern_length", R"({"type":"string","pattern":"^[a-z]+(,[a-z]+)*$","minLength":4,"maxLength":9})"},
    {"date", R"({"type":"string","format":"date"})"},
    {"time", R"({"type":"string","format":"time"})"},
    {"date_time", R"({"type":"string","format":"date-time"})"},
    {"uuid", R"({"type":"string","format":"uuid"})"},
    {"email", R"({"type":"string","format":"email"})"},
    {"hostname", R"({"type":"string","format":"hostname"})"},
    {"ipv4", R"({"type":"string","format":"ipv4"})"},
    {"ipv6", R"({"type":"string","format":"ipv6"})"},
    {"uri", R"({"type":"string","format":"uri"})"},
    {"duration", R"({"type":"string","format":"duration"})"},
};

class JsonSchema : public testing::TestWithParam<Case> {};

TEST_P(JsonSchema, RandomTextsAreValid) {
  const std::string text = GetParam().schema;
  const json schema = json::parse(text);
  for (const Vocabulary* vocabulary : {&byte_vocabulary(), &json_vocabulary()}) {
    const Constraint begin = vocabulary->constraint(GrammarPart::json(text));
    for (uint64_t seed = 0; seed < 40; ++seed) {
      const auto written = random_text(*vocabulary, begin, seed, static_cast<int>(seed) * 3);
      ASSERT_TRUE(written) << "seed " << seed;
      json value;
      ASSERT_NO_THROW(value = json::parse(*written)) << *written;
      EXPECT_TRUE(is_valid(value, schema, schema)) << *written;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Schemas, JsonSchema, testing::ValuesIn(kCases),
                         [](const auto& c) { return std::string(c.param.name); });

struct Example {
  const char* schema;
  std::vector<const char*> yes, no;
};

// That the grammar is not narrower than it should be cannot be seen from what it writes.
TEST(JsonSchema, TakesWhatIsUsual) {
  const Example examples[] = {
      {R"({"type":"object"})",
       {R"({})", R"({"a":1,"b":[true,null,{"c":"\u00e9\ud83d\ude00 é"}]})", "{\n  \"a\": 1,\n  \"b\": [\n    1\n  ]\n}",
        R"({"a": -1.5e-7, "b": ""})"},
       {R"([])", R"({"a"})", R"({"a":1,})", "{\n\n}", R"({"a":"\ud83d"})", R"({"a":01})", "{\"a\":\"\x01\"}",
        "{\"a\":\"\xC3\"}"}},
      {R"({"properties":{"a":{"type":"integer"},"b":{"type":"integer"}},"required":["b"]})",
       {R"({"b":1})", R"({"a":1,"b":2,"c":"x"})", R"({"b":1,"aa":null,"":1})"},
       {R"({"a":1})", R"({"b":1,"a":"x"})", R"({"b":1,"b":"x"})", R"({"c":1,"b":1})", R"({"b":"x"})"}},
      {R"({"type":"array","items":{"type":"integer"}})",
       {"[]", "[1]", "[1, 2,3]", "[\n  1,\n  2\n]"},
       {"[,]", "[1,]", "[1 2]", "[1.5]"}},
      {R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":false})",
       {"[]", "[1]", R"([1,"a"])"},
       {R"(["a"])", R"([1,"a",2])"}},
      {R"({"type":"string","format":"date"})",
       {R"("2024-02-29")", R"("1999-12-31")"},
       {R"("2023-02-29")", R"("1900-02-29")", R"("2024-13-01")", R"("2024-04-31")"}},
      {R"({"type":"string","pattern":"^\\w+ (foo|bar)$"})", {R"("a_1 foo")"}, {R"("foo")", R"("a foo ")"}},
      {R"({"type":"string","pattern":"b\\.c"})", {R"("b.c")", R"("ab.cd")", R"("b\nb.c")"}, {R"("bxc")", R"("")"}},
      {R"({"type":"string","pattern":"^[^a]$"})", {R"("é")", R"("\"")", R"("\n")", R"("😀")"}, {R"("a")", R"("bb")"}},
      {R"({"type":"string","maxLength":2})", {R"("")", R"("é😀")", R"("\ud83d\ude00\n")"}, {R"("abc")"}},
      {R"({"enum":[1,12,"a"]})", {"1", "12", R"("a")"}, {"2", "", "123", R"("aa")"}},
      {R"({"type":"number"})", {"0", "-0.5", "1e10", "12.25E-3"}, {"1.", ".5", "1e", "+1", "1e999"}},
  };
  for (const Example& example : examples) {
    const Constraint begin = byte_vocabulary().constraint(GrammarPart::json(example.schema));
    for (const char* text : example.yes) EXPECT_TRUE(matches(begin, text)) << example.schema << " " << text;
    for (const char* text : example.no) EXPECT_FALSE(matches(begin, text)) << example.schema << " " << text;
  }
}

TEST(JsonSchema, PropertiesComeInTheOrderOfTheSchema) {
  const Constraint begin = byte_vocabulary().constraint(GrammarPart::json(
      R"({"properties":{"z":{"const":1},"a":{"const":2},"m":{"const":3}},"additionalProperties":false})"));
  for (const char* text : {"{}", "{\"z\":1,\"a\":2,\"m\":3}", "{\"z\":1,\"m\":3}", "{\"a\":2}"})
    EXPECT_TRUE(matches(begin, text)) << text;
  for (const char* text : {"{\"a\":2,\"z\":1}", "{\"m\":3,\"a\":2}", "{\"z\":1,\"z\":1}"})
    EXPECT_FALSE(matches(begin, text)) << text;
}

TEST(JsonSchema, NestingIsBounded) {
  const Constraint begin = byte_vocabulary().constraint(GrammarPart::json("true"));
  Constraint c = begin;
  int depth = 0;
  while (c.accept('[')) ++depth;
  EXPECT_GE(depth, 60);  // as deep as the readers of formats/json.h go
  EXPECT_LE(depth, 64);
  for (; depth > 0; --depth) ASSERT_TRUE(c.accept(']'));
  EXPECT_TRUE(c.can_end());
}

}  // namespace
}  // namespace sluice
