// What answers are held to, token by token.
#include "serve/answer_grammar.h"

#include <chrono>

#include "chat/prompt.h"
#include "fixture.h"

namespace sluice::test {
namespace {

class AnswerGrammar : public testing::Test {
 protected:
  /// Of a chat with these further fields.
  std::unique_ptr<TokenConstraint> constraint(const std::string& fields) {
    const OrderedJson body = OrderedJson::parse(R"({"messages": [{"role": "user", "content": "hi"}])" + fields + "}");
    const ChatCompletion c = parse_chat_completion(body, model_.defaults);
    const EncodedPrompt prompt = encode_prompt(model_.chat, model_.tokenizer, c.chat, 0);
    const ConstraintMaker make = answer_constraint(c, prompt.answer, model_, cache_);
    return make ? make() : nullptr;
  }
  std::string refusal(const std::string& fields) {
    try {
      constraint(fields);
    } catch (const ApiError& e) {
      return e.what();
    }
    return "";
  }
  static std::string tool(const std::string& name, const std::string& schema, bool strict = false) {
    return R"({"type":"function","function":{"name":")" + name + R"(","strict":)" + (strict ? "true" : "false") +
           R"(,"parameters":)" + schema + "}}";
  }
  static std::string required(const std::string& tools) {
    return R"(, "tool_choice": "required", "tools": [)" + tools + "]";
  }
  static bool allows(TokenConstraint& c, int32_t id) {
    std::vector<uint64_t> mask(static_cast<size_t>(tokenizer().vocab_size()) / 64 + 1);
    c.mask(mask);
    return mask[static_cast<size_t>(id) / 64] >> (id % 64) & 1;
  }
  /// Takes as much of `text` as is allowed; returns the rest.
  static std::string follow(TokenConstraint& c, const std::string& text) {
    const std::vector<int32_t> ids = ids_of(text);
    size_t n = 0;
    for (; n < ids.size() && allows(c, ids[n]); ++n) c.accept(ids[n]);
    return tokenizer().decode(std::span(ids).subspan(n), false);
  }

  FakeTexts texts_;
  ServedModel model_ = fake_model(texts_);
  GrammarCache cache_;
};

const char* const kEnd = "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
const char* const kNumber =
    R"({"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false})";
const char* const kWord =
    R"({"type":"object","properties":{"w":{"enum":["a","b"]}},"required":["w"],"additionalProperties":false})";

TEST_F(AnswerGrammar, ACallIsHeldToTheFunctionThatIsNamed) {
  const std::string tools = required(tool("get", kNumber) + "," + tool("get.word", kWord));
  const auto number = constraint(tools);
  EXPECT_FALSE(number->can_end());
  EXPECT_EQ(follow(*number, "gex"), "x");
  EXPECT_EQ(follow(*number, "t\n```json\n{\"w"), "w");
  EXPECT_FALSE(number->can_end());
  EXPECT_EQ(follow(*number, std::string("n\":12}") + kEnd), "");
  EXPECT_TRUE(number->can_end());
  const auto word = constraint(tools);
  EXPECT_EQ(follow(*word, std::string("get.word\n```json\n{\"w\":\"b\"}") + kEnd), "");
  EXPECT_TRUE(word->can_end());
  const auto named = constraint(R"(, "tool_choice": {"type":"function","function":{"name":"get.word"}}, "tools": [)" +
                                tool("get", kNumber) + "," + tool("get.word", kWord) + "]");
  EXPECT_EQ(follow(*named, std::string("{\"w\":\"a\"}") + kEnd), "");
  EXPECT_TRUE(named->can_end());
}

TEST_F(AnswerGrammar, WhatCannotBeGuaranteedIsAnyObjectUnlessStrict) {
  const char* const unsupported = R"({"type":"object","minProperties":1})";
  const auto c = constraint(required(tool("f", unsupported)));
  EXPECT_EQ(follow(*c, std::string("f\n```json\n{\"x\":1}") + kEnd), "");
  for (int i = 0; i < 2; ++i)  // also when that is known
    EXPECT_EQ(refusal(required(tool("f", unsupported, true))), "tools: minProperties: not supported");
}

/// Each is large, and all together would be too large for one grammar.
TEST_F(AnswerGrammar, FunctionsAreNotCompiledTogether) {
  std::string tools;
  for (int i = 0; i < 20; ++i)
    tools += (i ? "," : "") +
             tool(fmt::format("f{}", i),
                  fmt::format(R"({{"properties":{{"a":{{"type":"string","maxLength":{}}}}}}})", 9000 + i), true);
  const auto c = constraint(required(tools));
  EXPECT_EQ(follow(*c, std::string("f7\n```json\n{\"a\":\"x\"}") + kEnd), "");
}

/// Functions that take long to compile do so once, and not all of a request that has too many of them.
TEST_F(AnswerGrammar, TheWorkOfARequestIsBounded) {
  const auto tools = [](bool strict) {
    std::string list;
    for (int i = 0; i < 100; ++i)
      list += (i ? "," : "") +
              tool(fmt::format("f{}", i),
                   fmt::format(R"-({{"properties":{{"a":{{"type":"string","pattern":"^(a?){{{}}}$"}}}}}})-", 800 + i),
                   strict);
    return required(list);
  };
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(refusal(tools(true)), "tools: the schemas together are too intricate");
  for (int i = 0; i < 3; ++i) {
    const auto c = constraint(tools(false));
    EXPECT_EQ(follow(*c, "f0\n```json\n{\"a\":\"b"), "b");
    EXPECT_EQ(follow(*constraint(tools(false)), std::string("f99\n```json\n{\"a\":\"b\"}") + kEnd), "");
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

TEST_F(AnswerGrammar, TheMemoryOfARequestIsBounded) {
  const auto tools = [](int count, bool strict, bool same) {
    std::string list;
    for (int i = 0; i < count; ++i)
      list += (i ? "," : "") +
              tool(fmt::format("f{}", i),
                   fmt::format(R"({{"properties":{{"a":{{"type":"string","maxLength":{}}}}}}})", 9000 + (same ? 0 : i)),
                   strict);
    return required(list);
  };
  EXPECT_EQ(refusal(tools(30, true, false)),
            "tools: the schemas together are too large: 16 MiB once compiled are possible");
  EXPECT_EQ(refusal(tools(30, true, true)), "");
  const auto c = constraint(tools(30, false, false));
  EXPECT_EQ(follow(*c, std::string("f29\n```json\n{\"x\":1}") + kEnd), "");
}

TEST_F(AnswerGrammar, GrammarsAreKeptUpToANumberOfBytes) {
  const auto get = [&](GrammarCache& cache, int length) {
    size_t work = 0;
    const auto part = GrammarPart::json(fmt::format(R"({{"maxLength":{}}})", length));
    const auto grammar = cache.get(fmt::format("{}", length), model_, part, "schema", work);
    EXPECT_GT(work, static_cast<size_t>(length));
    return grammar;
  };
  GrammarCache large;
  const auto first = get(large, 1000);
  EXPECT_EQ(get(large, 1000), first);
  const size_t bytes = large.bytes();
  EXPECT_GT(bytes, first->bytes());
  GrammarCache small(2 * bytes + bytes / 2);
  const auto a = get(small, 1000), b = get(small, 1001);
  EXPECT_EQ(get(small, 1000), a);
  get(small, 1002);
  EXPECT_LE(small.bytes(), 2 * bytes + bytes / 2);
  EXPECT_EQ(get(small, 1000), a);
  EXPECT_NE(get(small, 1001), b);
}

}  // namespace
}  // namespace sluice::test
