#include "tokenizer/named_stages.h"

#include <gtest/gtest.h>

#include "tokenizer/pre_tokenizer.h"

namespace sluice {
namespace {

using Pieces = std::vector<std::string>;

Pieces split(std::string_view name, std::string_view text) {
  RegexScratch scratch;
  Pieces pieces;
  PreTokenizer(named_stages(name).value(), "test").split(text, scratch, [&](std::string_view p) {
    pieces.emplace_back(p);
  });
  return pieces;
}

TEST(NamedStages, NamesAndStagesAreInverse) {
  for (const char* name : {"deepseek-v3", "deepseek-llm", "deepseek-coder", "kimi-k2"}) {
    ASSERT_TRUE(named_stages(name)) << name;
    EXPECT_EQ(name_of_stages(*named_stages(name)), name);
    EXPECT_NE(known_stage_names().find(name), std::string::npos);
  }
  EXPECT_EQ(name_of_stages(deepseek_v3_stages()), "deepseek-v3");
  auto stages = *named_stages("deepseek-llm");
  stages[5].individual_digits = true;  // the other way to write it
  EXPECT_EQ(name_of_stages(stages), "deepseek-llm");
  EXPECT_FALSE(named_stages("llama-bpe"));
  EXPECT_FALSE(name_of_stages({}));
}

TEST(NamedStages, DeepSeekLlm) {
  const auto pieces = [](std::string_view text) { return split("deepseek-llm", text); };
  EXPECT_EQ(pieces("Hello world\r\n123 ok."), (Pieces{"Hello", " world", "\r", "\n", "123", " ok", "."}));
  EXPECT_EQ(pieces("你好，世界 (x)  "), (Pieces{"你好", "，", "世界", " (", "x", ")", "  "}));
  // The ranges of the released file overlap more than was meant: `:-~` of the third stage holds the ASCII letters, the
  // fifth one everything from U+0800 on.
  EXPECT_EQ(pieces("don't \u00e9\u00e8 e\u00e9"), (Pieces{"don", "'", "t", " \u00e9\u00e8", " e", "\u00e9"}));
  EXPECT_EQ(pieces(" \u1f7d\u212a"), (Pieces{" ", "\u1f7d\u212a"}));
  EXPECT_EQ(pieces("a  b\uac00\ud7a3"), (Pieces{"a", " ", " b", "\uac00\ud7a3"}));
}

TEST(NamedStages, DeepSeekCoder) {
  const auto pieces = [](std::string_view text) { return split("deepseek-coder", text); };
  EXPECT_EQ(pieces("int x=10;\n"), (Pieces{"int", " x", "=", "1", "0", ";", "\n"}));
  EXPECT_EQ(pieces("a+b 你好"), (Pieces{"a", "+", "b", " ", "你好"}));
}

TEST(NamedStages, Kimi) {
  const auto pieces = [](std::string_view text) { return split("kimi-k2", text); };
  EXPECT_EQ(pieces("中文English混合"), (Pieces{"中文", "English", "混合"}));
  EXPECT_EQ(pieces("北京市 Pascal"), (Pieces{"北京市", " Pascal"}));
  EXPECT_EQ(pieces("你好。世界"), (Pieces{"你好", "。", "世界"}));  // the full stop is of no script
  EXPECT_EQ(pieces("HelloWorld I'LL don't"), (Pieces{"Hello", "World", " I'LL", " don't"}));
  EXPECT_EQ(pieces("12345 a\n\n  b"), (Pieces{"123", "45", " a", "\n\n", " ", " b"}));
  EXPECT_EQ(pieces("カタカナ語"), (Pieces{"カタカナ", "語"}));
}

}  // namespace
}  // namespace sluice
