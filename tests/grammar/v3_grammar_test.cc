// The published DeepSeek-V3 vocabulary (see tests/tokenizer/v3_tokenizer_test.cc): text as it cuts it is allowed, and a
// mask takes little time.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <iostream>

#include "base/error.h"
#include "grammar/constraint.h"

namespace sluice {
namespace {

class V3Grammar : public testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("SLUICE_V3_TOKENIZER");
    if (!folder || !fs::exists(fs::path(folder) / "tokenizer.json"))
      GTEST_SKIP() << "the published tokenizer is not installed (tests/tokenizer/fetch_v3_tokenizer.sh)";
    tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::load(folder));
    trie_ = std::make_shared<const TokenTrie>(*tokenizer_);
  }

  /// Follows `text` as the tokenizer cuts it. Returns the microseconds of each mask.
  std::vector<double> follow(const std::shared_ptr<TokenGrammar>& grammar, const std::string& text) {
    std::vector<int32_t> ids;
    tokenizer_->encode(text, false, ids);
    ids.push_back(tokenizer_->eos_id());
    Constraint c(grammar);
    std::vector<uint64_t> mask((static_cast<size_t>(grammar->vocab_size()) + 63) / 64);
    std::vector<double> times;
    for (const int32_t id : ids) {
      const auto begin = std::chrono::steady_clock::now();
      c.allowed(mask);
      times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count());
      EXPECT_TRUE(mask[static_cast<size_t>(id) / 64] >> (id % 64) & 1) << tokenizer_->token_bytes(id);
      EXPECT_TRUE(c.accept(id));
    }
    return times;
  }

  void follow_twice(const char* name, const GrammarPart& part, const std::string& text) {
    auto grammar = std::make_shared<TokenGrammar>(std::make_shared<const Grammar>(part, "schema"), trie_,
                                                  std::vector<int32_t>{tokenizer_->eos_id()});
    for (const char* round : {"first", "again"}) {
      std::vector<double> times = follow(grammar, text);
      std::sort(times.begin(), times.end());
      std::cout << name << ", " << round << ": " << times.size() << " masks, median " << times[times.size() / 2]
                << " us, p90 " << times[times.size() * 9 / 10] << " us, largest " << times.back() << " us\n";
    }
  }

  /// The milliseconds of the longest mask on the way through `text`, or to where the grammar gives up.
  double longest_mask(const char* name, const std::string& schema, const std::string& text) {
    auto grammar = std::make_shared<TokenGrammar>(std::make_shared<const Grammar>(GrammarPart::json(schema), "schema"),
                                                  trie_, std::vector<int32_t>{tokenizer_->eos_id()});
    std::vector<int32_t> ids;
    tokenizer_->encode(text, false, ids);
    Constraint c(grammar);
    std::vector<uint64_t> mask((static_cast<size_t>(grammar->vocab_size()) + 63) / 64);
    double longest = 0;
    size_t masks = 0;
    std::string end = "all";
    for (const int32_t id : ids) {
      const auto begin = std::chrono::steady_clock::now();
      try {
        c.allowed(mask);
        ++masks;
      } catch (const Error& e) {
        end = e.what();
      }
      longest = std::max(longest,
                         std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
      if (end != "all" || !c.accept(id)) break;
    }
    std::cout << name << ": " << masks << " masks, longest " << longest << " ms, " << end << "\n";
    return longest;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  std::shared_ptr<const TokenTrie> trie_;
};

const std::string kText =
    "{\n  \"name\": \"Ada Lovelace – 爱达\",\n  \"born\": 1815,\n  \"tags\": [\"mathematics\", \"engines\", \"naïve "
    "\\\"poetry\\\"\"],"
    "\n  \"links\": [\n    {\"url\": \"https://example.org/a?b=c\", \"score\": 0.75},\n    {\"url\": \"x\", \"score\": "
    "1}\n  ]\n}";

TEST_F(V3Grammar, AnyObject) { follow_twice("any object", GrammarPart::json_object(), kText); }

TEST_F(V3Grammar, Schema) {
  follow_twice("schema", GrammarPart::json(R"({"type":"object","properties":{"name":{"type":"string"},
      "born":{"type":"integer","minimum":0,"maximum":3000},"tags":{"type":"array","items":{"type":"string"}},
      "links":{"type":"array","items":{"type":"object","properties":{"url":{"type":"string"},"score":{"type":"number",
      "minimum":0,"maximum":1}},"required":["url","score"],"additionalProperties":false}}},
      "required":["name","born","tags","links"],"additionalProperties":false})"),
               kText);
}

TEST_F(V3Grammar, LimitedStrings) {
  follow_twice("limited strings",
               GrammarPart::json(R"({"type":"object","properties":{"name":{"type":"string","maxLength":80},
      "born":{"type":"integer"},"tags":{"type":"array","items":{"type":"string","minLength":3,"maxLength":500},"maxItems":9}}})"),
               kText);
}

/// {"anyOf":[...]} of strings with `count` patterns made of the number.
std::string patterns(int count, const std::function<std::string(int)>& pattern) {
  std::string schema = R"({"anyOf":[)";
  for (int i = 0; i < count; ++i)
    schema += fmt::format(R"-({}{{"type":"string","pattern":"{}"}})-", i ? "," : "", pattern(i));
  return schema + "]}";
}

std::string class_of(int seed, int letters) {
  std::string out = "[";
  for (int k = 0; k < letters; ++k) out += static_cast<char>('a' + (seed * 7 + k * 11 + seed / 26) % 26);
  return out + "]";
}

/// Objects that differ behind the same key.
std::string objects(int count, const std::function<std::string(int)>& pattern) {
  std::string schema = R"({"anyOf":[)";
  for (int i = 0; i < count; ++i)
    schema += fmt::format(R"-({}{{"type":"object","properties":{{"a":{{"type":"string","pattern":"{}"}}}}}})-",
                          i ? "," : "", pattern(i));
  return schema + "]}";
}

/// Every choice leads to all choices of the next level.
std::string layers(int depth, int width) {
  std::string schema = R"({"$ref":"#/$defs/l0","$defs":{)";
  for (int d = 0; d < depth; ++d) {
    schema += fmt::format(R"("l{}":{{"anyOf":[)", d);
    for (int w = 0; w < width; ++w)
      schema += fmt::format(R"({}{{"type":"array","minItems":1,"maxItems":{},"items":{{"$ref":"#/$defs/l{}"}}}})",
                            w ? "," : "", w + 1, d + 1);
    schema += "]},";
  }
  return schema + fmt::format(R"("l{}":{{"type":"string","pattern":"^[a-z]*$"}}}}}})", depth);
}

TEST_F(V3Grammar, NoMaskTakesLong) {
  const auto two = [](int i) { return "^.*" + class_of(i, 3) + ".*" + class_of(i + 5, 3) + ".*$"; };
  const std::string text = "\"The quick brown fox jumps over\"", object = "{\"a\":" + text;
  const struct {
    const char* name;
    std::string schema, text;
  } cases[] = {
      {"six, two classes", patterns(6, two), text},
      {"two classes", patterns(100, two), text},
      {"one class", patterns(120, [](int i) { return "^.*" + class_of(i, 1) + ".*$"; }), text},
      {"distance", patterns(40, [](int i) { return "^.*" + class_of(i, 6) + ".{1}" + class_of(i + 3, 6) + ".*$"; }),
       text},
      {"four objects", objects(4, [](int i) { return "^" + class_of(i, 9) + "*$"; }), "{\"a\":\"nono\""},
      {"objects", objects(100, [](int i) { return "^.*" + class_of(i, 9) + "$"; }), object},
      {"layers", layers(20, 12), std::string(20, '[') + "\"ab\""},
      {"long and wide", patterns(20, [](int i) { return fmt::format("^(.*[^{}]){{3}}$", i % 10); }), text},
  };
  for (const auto& c : cases) EXPECT_LT(longest_mask(c.name, c.schema, c.text), 100) << c.name;
}

TEST_F(V3Grammar, SpecialTokensOnlyWhereTheyAreAskedFor) {
  auto grammar = std::make_shared<TokenGrammar>(std::make_shared<const Grammar>(GrammarPart::free_text(), "text"),
                                                trie_, std::vector<int32_t>{tokenizer_->eos_id()});
  std::vector<uint64_t> mask((static_cast<size_t>(grammar->vocab_size()) + 63) / 64);
  Constraint(grammar).allowed(mask);
  for (const char* special : {"<｜User｜>", "<｜tool▁calls▁begin｜>"}) {
    const size_t id = static_cast<size_t>(tokenizer_->id_of(special).value());
    EXPECT_FALSE(mask[id / 64] >> (id % 64) & 1) << special;
  }
}

}  // namespace
}  // namespace sluice
