#include "tokenizer/pre_tokenizer.h"

#include <gtest/gtest.h>

#include "tiny_tokenizer.h"

namespace sluice {
namespace {

using Pieces = std::vector<std::string>;

Pieces split(const std::vector<PreTokenizerStage>& stages, std::string_view text) {
  RegexScratch scratch;
  Pieces pieces;
  PreTokenizer(stages, "test").split(text, scratch, [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}

PreTokenizerStage split_stage(const char* pattern, SplitBehavior behavior, bool invert = false, bool literal = false) {
  PreTokenizerStage stage;
  stage.pattern = pattern;
  stage.behavior = behavior;
  stage.invert = invert;
  stage.literal = literal;
  return stage;
}

Pieces split_v3(std::string_view text) { return split(deepseek_v3_stages(), text); }

TEST(PreTokenizer, DeepSeekV3) {
  EXPECT_EQ(split_v3(""), Pieces{});
  EXPECT_EQ(split_v3("Hello, world!"), (Pieces{"Hello", ",", " world", "!"}));
  EXPECT_EQ(split_v3(" hello  world\n\n"), (Pieces{" hello", " ", " world", "\n\n"}));
  EXPECT_EQ(split_v3("1234567890"), (Pieces{"123", "456", "789", "0"}));
  EXPECT_EQ(split_v3("毕老师1+1=2"), (Pieces{"毕老师", "1", "+", "1", "=", "2"}));
  EXPECT_EQ(split_v3("明月ABC光"), (Pieces{"明月", "ABC", "光"}));
  EXPECT_EQ(split_v3("don't (it's)"), (Pieces{"don", "'t", " (", "it", "'s", ")"}));
  EXPECT_EQ(split_v3("a  \n  b\t"), (Pieces{"a", "  \n", " ", " b", "\t"}));
  EXPECT_EQ(split_v3("/x //x !=\r\ny"), (Pieces{"/x", " //", "x", " !=\r\n", "y"}));
  EXPECT_EQ(split_v3("e\u0301t\u00e9 \u0661\u0662"), (Pieces{"e\u0301t\u00e9", " ", "\u0661\u0662"}));
  EXPECT_EQ(split_v3("a\u180eb\u3000\u3000c"), (Pieces{"a", "\u180eb", "\u3000", "\u3000c"}));
  EXPECT_EQ(split_v3("a \u180e"), (Pieces{"a", " ", "\u180e"}));  // no white space
}

// The expected pieces were read off the npm package tokenizers 0.23.2.
TEST(PreTokenizer, Behaviors) {
  const std::string_view text = "--a-b--";
  const auto with = [&](SplitBehavior behavior, bool invert = false) {
    return split({split_stage("-", behavior, invert)}, text);
  };
  EXPECT_EQ(with(SplitBehavior::isolated), (Pieces{"-", "-", "a", "-", "b", "-", "-"}));
  EXPECT_EQ(with(SplitBehavior::removed), (Pieces{"a", "b"}));
  EXPECT_EQ(with(SplitBehavior::removed, true), (Pieces{"-", "-", "-", "-", "-"}));
  EXPECT_EQ(with(SplitBehavior::merged_with_previous), (Pieces{"-", "-", "a-", "b-", "-"}));
  EXPECT_EQ(with(SplitBehavior::merged_with_next), (Pieces{"-", "-a", "-b", "-", "-"}));
  EXPECT_EQ(with(SplitBehavior::contiguous), (Pieces{"--", "a", "-", "b", "--"}));
}

TEST(PreTokenizer, LiteralPatternsAreNoRegex) {
  EXPECT_EQ(split({split_stage("a.b", SplitBehavior::isolated, false, true)}, "axba.b"), (Pieces{"axb", "a.b"}));
}

TEST(PreTokenizer, EmptyMatchesOnlyCut) {
  EXPECT_EQ(split({split_stage("(?=[A-Z])", SplitBehavior::isolated)}, "Aé\u6708BcD"), (Pieces{"Aé\u6708", "Bc", "D"}));
  EXPECT_EQ(split({split_stage("", SplitBehavior::isolated)}, "é月"), (Pieces{"é", "月"}));
}

TEST(PreTokenizer, DigitsAndByteLevel) {
  PreTokenizerStage digits, bytes;
  digits.kind = PreTokenizerStage::Kind::digits;
  bytes.kind = PreTokenizerStage::Kind::byte_level;
  EXPECT_EQ(split({digits, bytes}, "a123½b"), (Pieces{"a", "123½", "b"}));
  digits.individual_digits = true;
  EXPECT_EQ(split({digits, bytes}, "a12b"), (Pieces{"a", "1", "2", "b"}));
  bytes.use_regex = true;
  EXPECT_EQ(split({bytes}, "I'll go  there 12!"), (Pieces{"I", "'ll", " go", " ", " there", " 12", "!"}));
  bytes.add_prefix_space = true;
  EXPECT_EQ(split({bytes}, "it 's"), (Pieces{" it", " '", "s"}));
  EXPECT_EQ(split({bytes}, " it"), (Pieces{" it"}));
}

TEST(PreTokenizer, EndlessRegexIsAnError) {
  const std::string text = std::string(5000, 'a') + "bc";
  const std::string error = error_of([&] { split({split_stage("(a|aa)+c", SplitBehavior::isolated)}, text); });
  EXPECT_NE(error.find("pre_tokenizer stage 0"), std::string::npos) << error;
}

}  // namespace
}  // namespace sluice
