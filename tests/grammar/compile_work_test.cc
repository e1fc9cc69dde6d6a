// However intricate a schema is, compiling it is refused before it takes long.
#include <gtest/gtest.h>

#include <chrono>
#include <iostream>

#include "base/error.h"
#include "grammar/automaton.h"
#include "grammar/grammar.h"

namespace sluice {
namespace {

/// What `member(i)` writes for each i, with commas between.
template <class F>
std::string list(int count, F&& member) {
  std::string out;
  for (int i = 0; i < count; ++i) out += (i ? "," : "") + member(i);
  return out;
}

/// Ten times what it takes, since sanitizers and busy machines take their time; unbounded, these take many seconds.
constexpr double kMostSeconds = 3;

double seconds_to_compile(const std::string& schema) {
  const auto begin = std::chrono::steady_clock::now();
  std::string outcome = "compiled";
  size_t work = 0;
  try {
    const Grammar grammar(GrammarPart::json(schema), "schema", &work);
  } catch (const Error& e) {
    outcome = std::string(e.what()).substr(0, 100);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  EXPECT_LE(work, kMaxGrammarWork);
  std::cout << seconds << " s, " << schema.size() << " bytes: " << outcome << "\n";
  return seconds;
}

std::string references(const std::string& definitions, int count, const std::string& target) {
  return R"({"$defs":{)" + definitions + R"(},"anyOf":[)" +
         list(count / 1000 + 1,
              [&](int) {
                return R"({"prefixItems":[)" +
                       list(1000, [&](int) { return fmt::format(R"({{"$ref":"#/$defs/{}"}})", target); }) + "]}";
              }) +
         "]}";
}

TEST(CompileWork, LongTextsThatAreReferredToOften) {
  EXPECT_LT(seconds_to_compile(references(R"("a":{"const":")" + std::string(160'000, 'x') + "\"}", 3000, "a")),
            kMostSeconds);
}

TEST(CompileWork, LongTextsBesideAlternatives) {
  EXPECT_LT(
      seconds_to_compile(R"({"properties":{"a":{"description":")" + std::string(200'000, 'x') + R"("}},"anyOf":[)" +
                         list(1000, [](int i) { return fmt::format(R"({{"minProperty":{}}})", i); }) + "]}"),
      kMostSeconds);
  EXPECT_LT(
      seconds_to_compile(R"({"properties":{"a":{"description":")" + std::string(200'000, 'x') + R"("}},"anyOf":[)" +
                         list(1000, [](int i) { return fmt::format(R"({{"required":["{}"]}})", i); }) + "]}"),
      kMostSeconds);
}

TEST(CompileWork, ChainsOfReferencesAmongManyDefinitions) {
  std::string definitions = list(960, [](int i) { return fmt::format(R"("def{:04}":{{}})", i); });
  for (int i = 0; i < 30; ++i) definitions += fmt::format(R"(,"c{}":{{"$ref":"#/$defs/c{}"}})", i, i + 1);
  EXPECT_LT(seconds_to_compile(references(definitions + R"(,"c30":{"type":"null"})", 9000, "c0")), kMostSeconds);
}

TEST(CompileWork, LongReferencesThatAreFollowedOften) {
  const std::string name(100'000, 'x');
  const auto all_of = [](const char* of) {
    return R"({"allOf":[)" + list(300, [&](int) { return fmt::format(R"({{"$ref":"#/$defs/{}"}})", of); }) + "]}";
  };
  EXPECT_LT(seconds_to_compile(R"({"$ref":"#/$defs/c","$defs":{"a":{"$ref":"#/$defs/)" + name + R"("},"b":)" +
                               all_of("a") + R"(,"c":)" + all_of("b") + ",\"" + name + R"(":{"type":"null"}}})"),
            kMostSeconds);
}

TEST(CompileWork, ManyValuesMerged) {
  const std::string lists = list(77, [](int) { return "[" + list(1000, [](int) { return std::string("1"); }) + "]"; });
  EXPECT_LT(seconds_to_compile(R"({"$defs":{"a":{"const":[)" + lists + R"(]}},"allOf":[)" +
                               list(9, [](int) { return std::string(R"({"$ref":"#/$defs/a"})"); }) + "]}"),
            kMostSeconds);
}

TEST(CompileWork, ManyRequiredNames) {
  const auto names = list(1000, [](int i) { return fmt::format("\"k{}\"", i); });
  const std::string schema =
      R"({"$defs":{"r":{"required":[)" + names + R"(]}},"anyOf":[)" +
      list(290,
           [](int i) {
             return fmt::format(R"({{"allOf":[{{"$ref":"#/$defs/r"}}],"additionalProperties":{{"maximum":{}}}}})", i);
           }) +
      "]}";
  EXPECT_LT(seconds_to_compile(schema), kMostSeconds);
}

TEST(CompileWork, ManyPropertiesMerged) {
  const auto properties = [](int first) {
    return R"("properties":{)" + list(1000, [&](int i) { return fmt::format(R"("property{:05}":true)", first + i); }) +
           "}";
  };
  const std::string schema =
      R"({"$defs":{"a":{)" + properties(0) + R"(},"b":{)" + properties(1000) + R"(}},"anyOf":[)" +
      list(900,
           [](int i) {
             return fmt::format(R"({{"allOf":[{{"$ref":"#/$defs/a"}},{{"$ref":"#/$defs/b"}}],"maximum":{}}})", i);
           }) +
      "]}";
  EXPECT_LT(seconds_to_compile(schema), kMostSeconds);
}

TEST(CompileWork, Patterns) {
  const auto strings = [](int count, const auto& pattern) {
    return R"({"anyOf":[)" + list(count, [&](int i) { return R"({"pattern":")" + pattern(i) + R"("})"; }) + "]}";
  };
  EXPECT_LT(seconds_to_compile(strings(500, [](int i) { return fmt::format("^(a|b)*a(a|b){{{}}}$", 8 + i % 5); })),
            kMostSeconds);
  EXPECT_LT(seconds_to_compile(strings(60, [](int i) { return fmt::format("^.*a.{{{}}}b$", 10 + i); })), kMostSeconds);
  EXPECT_LT(seconds_to_compile(strings(200, [](int i) { return fmt::format("^(a?){{{}}}$", 500 + i); })), kMostSeconds);
  const std::string letters = list(1000, [](int i) { return fmt::format("\\u{:04x}", 0x100 + 3 * i); });  // with commas
  EXPECT_LT(seconds_to_compile(strings(1, [&](int) { return "^([" + letters + "]{1000}){19}$"; })), kMostSeconds);
}

TEST(CompileWork, LengthsOfPatterns) {
  EXPECT_LT(
      seconds_to_compile(
          R"({"anyOf":[)" +
          list(1000,
               [](int i) { return fmt::format(R"-({{"pattern":"^([a-z]{{40}})*$","maxLength":{}}})-", 4000 + i); }) +
          "]}"),
      kMostSeconds);
}

TEST(CompileWork, EverythingUpToTheSizeLimit) {
  EXPECT_LT(seconds_to_compile(R"({"prefixItems":[)" +
                               list(19, [](int i) { return fmt::format(R"({{"maxLength":{}}})", 6000 + i); }) + "]}"),
            kMostSeconds);
  EXPECT_LT(seconds_to_compile(R"({"anyOf":[)" +
                               list(40,
                                    [](int i) {
                                      return R"({"enum":[)" +
                                             list(200,
                                                  [&](int k) { return fmt::format(R"("{:020}")", i * 1000 + k); }) +
                                             "]}";
                                    }) +
                               "]}"),
            kMostSeconds);
}

}  // namespace
}  // namespace sluice
