// The published DeepSeek-V3 vocabulary (see tests/tokenizer/v3_tokenizer_test.cc): text as it cuts it is allowed, and a
// mask takes little time.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>

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
    EXPECT_TRUE(c.ended());
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
