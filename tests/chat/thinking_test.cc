#include "chat/thinking.h"

#include <gtest/gtest.h>

#include <vector>

namespace sluice {
namespace {

using Parts = ThinkingSplitter::Parts;

/// All parts of a text that arrives in pieces.
Parts split(const std::vector<std::string>& pieces) {
  ThinkingSplitter splitter;
  Parts all;
  const auto add = [&](const Parts& p) {
    all.thinking += p.thinking;
    all.answer += p.answer;
  };
  for (const std::string& piece : pieces) add(splitter.push(piece));
  add(splitter.finish());
  return all;
}

struct Example {
  std::string text, thinking, answer;
};

const std::vector<Example>& examples() {
  static const std::vector<Example> all = {
      {"", "", ""},
      {"Hello", "", "Hello"},
      {"<think>one\ntwo</think>three", "one\ntwo", "three"},
      {"<think></think>x", "", "x"},
      {"<think>x</think>", "x", ""},
      {" \n\t\r<think>x</think>\n\ny", "x", "\n\ny"},
      {" \n ", "", " \n "},
      {"  hello", "", "  hello"},
      {"<think>never closed", "never closed", ""},
      {"<think>x</think", "x</think", ""},
      {"<think>x</</think>y", "x</", "y"},
      {"<think>a</thin</think>y", "a</thin", "y"},
      {"<think><think>x</think>y</think>z", "<think>x", "y</think>z"},
      {"<think>x</think>a<think>b</think>c", "x", "a<think>b</think>c"},
      {"<thin", "", "<thin"},
      {" <thinking>x", "", " <thinking>x"},
      {"<think", "", "<think"},
      {"<think>", "", ""},
      {"x<think>y</think>z", "", "x<think>y</think>z"},
      {"</think>x", "", "</think>x"},
      {"<Think>x</think>", "", "<Think>x</think>"},
      {"<think>if (a < b && b </ c) é</think>ü", "if (a < b && b </ c) é", "ü"},
  };
  return all;
}

TEST(Thinking, SplitsWholeTexts) {
  for (const Example& e : examples()) {
    const Parts p = split({e.text});
    EXPECT_EQ(p.thinking, e.thinking) << e.text;
    EXPECT_EQ(p.answer, e.answer) << e.text;
  }
}

TEST(Thinking, DoesNotDependOnPieces) {
  for (const Example& e : examples())
    for (size_t a = 0; a <= e.text.size(); ++a)
      for (size_t b = a; b <= e.text.size(); ++b) {
        const Parts p = split({e.text.substr(0, a), e.text.substr(a, b - a), e.text.substr(b)});
        ASSERT_EQ(p.thinking, e.thinking) << e.text << " cut at " << a << " and " << b;
        ASSERT_EQ(p.answer, e.answer) << e.text << " cut at " << a << " and " << b;
      }
}

TEST(Thinking, GivesAwayWhatIsCertain) {
  ThinkingSplitter s;
  EXPECT_FALSE(s.is_thinking());
  EXPECT_EQ(s.push(" <thi").answer, "");
  EXPECT_FALSE(s.is_thinking());
  EXPECT_EQ(s.push("nk>ab").thinking, "ab");
  EXPECT_TRUE(s.is_thinking());
  EXPECT_EQ(s.push("c</").thinking, "c");  // the rest may become a tag
  EXPECT_EQ(s.push("x").thinking, "</x");  // it did not
  EXPECT_EQ(s.push("d</thi").thinking, "d");
  EXPECT_TRUE(s.is_thinking());
  const Parts p = s.push("nk>e<think>");
  EXPECT_EQ(p.thinking, "");
  EXPECT_EQ(p.answer, "e<think>");
  EXPECT_FALSE(s.is_thinking());
  EXPECT_EQ(s.push("<").answer, "<");  // no tags any more
  EXPECT_EQ(s.finish().answer, "");
}

TEST(Thinking, HoldsBackNoMoreThanATag) {
  ThinkingSplitter plain;
  EXPECT_EQ(plain.push("H").answer, "H");
  ThinkingSplitter spaces;
  EXPECT_EQ(spaces.push("  ").answer, "");
  EXPECT_EQ(spaces.push("<b").answer, "  <b");
}

}  // namespace
}  // namespace sluice
