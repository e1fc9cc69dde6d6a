// What cannot be guaranteed is refused with the place where it stands.
#include <gtest/gtest.h>

#include "base/error.h"
#include "grammar/grammar.h"

namespace sluice {
namespace {

std::string refusal(const std::string& schema) {
  try {
    Grammar grammar(GrammarPart::json(schema), "schema");
    return "compiled";
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(RefusedSchema, NamesThePlace) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"properties":{"x":{"not":{}}}})", "schema: properties.x.not: not supported"},
      {R"({"type":"array","items":{"uniqueItems":true}})", "schema: items.uniqueItems: not supported"},
      {R"({"anyOf":[{"type":"null"},{"multipleOf":3}]})", "schema: anyOf[1].multipleOf: not supported"},
      {R"({"type":"integer","mininum":3})", "schema: mininum: not supported"},
      {R"({"$defs":{"a":{"if":true}},"$ref":"#/$defs/a"})", "schema: $defs.a.if: not supported"},
      {R"-({"type":"string","pattern":"(?=a)"})-",
       "schema: pattern: a look-ahead or a flag at character 2 is not supported in a pattern"},
      {R"({"type":"string","pattern":"(a"})",
       "schema: pattern: a group without an end at character 2 is not supported in a pattern"},
      {R"({"type":"string","pattern":"a\\b"})",
       "schema: pattern: this escape at character 3 is not supported in a pattern"},
      {R"({"type":"string","pattern":"(a)\\1"})",
       "schema: pattern: this escape at character 5 is not supported in a pattern"},
      {R"-({"type":"string","pattern":"(^a)"})-",
       "schema: pattern: an anchor inside of an alternative or a group at character 2 is not supported in a pattern"},
      {R"({"type":"string","pattern":"a{2000}"})",
       "schema: pattern: a count of more than 1000 at character 5 is not supported in a pattern"},
      {R"({"type":"string","pattern":"((a{1000}){1000}){1000}"})", "schema: pattern: the pattern is too large"},
      {R"({"type":"string","pattern":"(a|b)*a(a|b){20}"})", "schema: pattern: the pattern is too intricate"},
      {R"({"type":"string","format":"phone"})",
       "schema: format: expected date, time, date-time, duration, uuid, email, hostname, ipv4, ipv6, uri, found "
       "\"phone\""},
      {R"({"type":"string","format":"date","pattern":"a"})", "schema: format: not supported together with pattern"},
      {R"({"enum":["a"],"minLength":1})", "schema: minLength: not supported together with enum or const"},
      {R"({"$ref":"#/x"})", R"(schema: $ref: expected "#/..." of this schema, found "#/x")"},
      {R"({"$ref":"other.json"})", R"(schema: $ref: expected "#/..." of this schema, found "other.json")"},
      {R"({"$ref":"#"})", "schema: expected at most 32 references one after the other"},
      {R"({"allOf":[{"$ref":"#"}]})", "schema: allOf[0]: refers to itself, or more than 32 times"},
      {R"({"anyOf":[{"$ref":"#"},{"type":"null"}]})", "schema: a schema refers to itself without anything in between"},
      {R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})",
       "schema: no value is valid, or only one nested deeper than 63"},
      {R"({"type":"integer","minimum":5,"maximum":3})", "schema: no value is valid, or only one nested deeper than 63"},
      {R"({"type":"object","required":["a"],"additionalProperties":false})",
       "schema: no value is valid, or only one nested deeper than 63"},
      {"false", "schema: no value is valid, or only one nested deeper than 63"},
      {R"({"type":"text"})", "schema: type: expected null, boolean, integer, number, string, array or object"},
      {R"({"minLength":-1})", "schema: minLength: expected an integer from 0 to 20000, found -1"},
      {R"({"type":"string","maxLength":1000000})",
       "schema: maxLength: expected an integer from 0 to 20000, found 1000000"},
      {R"({"type":"number","maximum":1e30})",
       "schema: maximum: expected at most 18 digits before the point and 16 behind it, found 1e+30"},
      {R"({"properties":{"a\nb":5}})", R"(schema: properties.a\nb: expected a schema, found 5)"},
      {R"({"allOf":[{"pattern":"a"},{"pattern":"b"}]})",
       "schema: pattern: two of them for one value are not supported"},
      {R"({"a":1,"a":2})", "schema: duplicate key \"a\""},
  };
  for (const auto& [schema, message] : cases) EXPECT_EQ(refusal(schema), message) << schema;
  EXPECT_TRUE(refusal("[").starts_with("schema: malformed JSON"));
}

TEST(RefusedSchema, SizesAreBounded) {
  EXPECT_EQ(refusal(std::string(300'000, ' ')), "schema: expected at most 262144 bytes, found 300000");
  std::string deep = "true", wide = R"({"type":"object","properties":{)", many = R"({"enum":[0)";
  for (int i = 0; i < 70; ++i) deep = R"({"items":)" + deep + "}";
  EXPECT_EQ(refusal(deep), "schema: JSON is nested deeper than 64");
  for (int i = 0; i < 102; ++i) wide += fmt::format(R"({}"p{}":true)", i ? "," : "", i);
  EXPECT_EQ(refusal(wide + "}}"), "schema: properties: more than 100 optional ones in a row");
  for (int i = 1; i <= 1000; ++i) many += fmt::format(",{}", i);
  EXPECT_EQ(refusal(many + "]}"), "schema: expected at most 1000 members in a list or object, found 1001");
  std::string large = R"({"type":"object","properties":{)";
  for (int i = 0; i < 90; ++i)
    large += fmt::format(R"({}"p{}":{{"type":"string","maxLength":{}}})", i ? "," : "", i, 19'000 + i);
  EXPECT_EQ(refusal(large + "}}"), "schema: too large");
}

// One pattern of this kind is fine, but takes long for how short it is.
TEST(RefusedSchema, PatternsTogetherAreBounded) {
  const auto schema = [](int count) {
    std::string text = R"({"anyOf":[)";
    for (int i = 0; i < count; ++i)
      text +=
          fmt::format(R"-({}{{"type":"string","pattern":"^(?:(?:[a-z]{{0,{}}})*,){{0,9}}$"}})-", i ? "," : "", 100 + i);
    return text + "]}";
  };
  EXPECT_EQ(refusal(schema(1)), "compiled");
  EXPECT_NE(refusal(schema(100)).find("the pattern is too intricate"), std::string::npos);
}

// Merging makes schemas that are larger than what was written, without end here.
TEST(RefusedSchema, MergingIsBounded) {
  const std::string refused = refusal(R"({"allOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/b"}],"$defs":{
      "a":{"properties":{"x":{"allOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/b"}]}}},
      "b":{"properties":{"x":{"allOf":[{"$ref":"#/$defs/b"},{"$ref":"#/$defs/a"}]}}}}})");
  EXPECT_NE(refused.find("too large"), std::string::npos) << refused;
  std::string product = R"({"allOf":[)";
  for (int i = 0; i < 9; ++i)
    product += fmt::format(R"({}{{"anyOf":[{{"minimum":{}}},{{"maximum":5}}]}})", i ? "," : "", i);
  EXPECT_EQ(refusal(product + "]}"), "schema: anyOf: too many combinations of alternatives");
}

}  // namespace
}  // namespace sluice
