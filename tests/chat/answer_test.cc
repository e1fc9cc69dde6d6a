#include "chat/answer.h"

#include <gtest/gtest.h>

#include "byte_tokenizer.h"

namespace sluice {
namespace {

using Kind = AnswerEvent::Kind;
using State = ThinkingSplitter::State;

/// Reasoning, content and calls of a whole answer.
struct Answer {
  std::string reasoning, content, calls;
  bool stopped = false;
};

/// One token per byte.
Answer read(const AnswerFormat& format, std::string_view text, std::vector<std::string> stops = {}) {
  AnswerParser parser(tokenizer(), format, std::move(stops));
  Answer answer;
  const auto add = [&](const AnswerEvents& events) {
    for (const AnswerEvent& e : events) {
      if (e.kind == Kind::reasoning) answer.reasoning += e.text;
      if (e.kind == Kind::content) answer.content += e.text;
      if (e.kind == Kind::tool_call) answer.calls += e.name.empty() ? e.text : "[" + e.name + "]";
    }
  };
  for (const char c : text) add(parser.push(static_cast<uint8_t>(c)));
  add(parser.finish());
  answer.stopped = parser.stopped();
  return answer;
}

constexpr std::string_view kCall =
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": \"é\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";

TEST(Answer, ThinkingContentAndCalls) {
  const Answer a = read({ToolSyntax::deepseek}, "<think>\nhm é</think>\n\nYes.\n" + std::string(kCall));
  EXPECT_EQ(a.reasoning, "hm é");
  EXPECT_EQ(a.content, "Yes.");
  EXPECT_EQ(a.calls, "[f]{\"a\": \"é\"}");
}

TEST(Answer, StartsWhereThePromptEnds) {
  EXPECT_EQ(read({ToolSyntax::none, State::thinking}, "\nhm\n</think>\n\nYes").reasoning, "hm\n");
  EXPECT_EQ(read({ToolSyntax::none, State::thinking}, "\nhm\n</think>\n\nYes").content, "Yes");
  EXPECT_EQ(read({ToolSyntax::none, State::thinking}, "never closed").reasoning, "never closed");
  EXPECT_EQ(read({ToolSyntax::none, State::answer}, "\n\n<think>x</think>").content, "<think>x</think>");
  EXPECT_EQ(read({ToolSyntax::none, State::start}, "\n\nHi").content, "\n\nHi");
  EXPECT_EQ(read({ToolSyntax::none, State::answer, true}, "\n\nHi").content, "\n\nHi");
  EXPECT_EQ(read({ToolSyntax::none, State::thinking, true}, "\nhm</think>\nx").reasoning, "\nhm");
  EXPECT_EQ(read({ToolSyntax::none, State::thinking, true}, "\nhm</think>\nx").content, "x");
}

TEST(Answer, BegunCallsComeWithTheFirstToken) {
  const std::string begun = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>";
  AnswerParser parser(tokenizer(), {ToolSyntax::deepseek, State::answer, false, begun}, {});
  EXPECT_EQ(parser.push('{'), (AnswerEvents{{Kind::tool_call, "", 0, "f"}, {Kind::tool_call, "{", 0}}));
  EXPECT_EQ(parser.section(), Kind::tool_call);
  EXPECT_EQ(parser.push('}'), (AnswerEvents{{Kind::tool_call, "}", 0}}));
  EXPECT_EQ(parser.finish(), AnswerEvents());
}

TEST(Answer, StopStringsEndTheContentOnly) {
  const std::string text = "<think>a STOP b</think>x STOP y";
  const Answer a = read({ToolSyntax::none}, text, {"STOP"});
  EXPECT_EQ(a.reasoning, "a STOP b");
  EXPECT_EQ(a.content, "x ");
  EXPECT_TRUE(a.stopped);
  const Answer call = read({ToolSyntax::deepseek}, kCall, {"a"});
  EXPECT_EQ(call.calls, "[f]{\"a\": \"é\"}");
  EXPECT_FALSE(call.stopped);
  EXPECT_EQ(read({ToolSyntax::deepseek}, "x STOP" + std::string(kCall), {"STOP"}).calls, "");
  // What was held back as the beginning of a stop string comes before the call.
  EXPECT_EQ(read({ToolSyntax::deepseek}, "x ST" + std::string(kCall), {"STOP"}).content, "x ST");
  EXPECT_EQ(read({ToolSyntax::none}, "x ST", {"STOP"}).content, "x ST");
}

TEST(Answer, SectionsOfTokens) {
  AnswerParser parser(tokenizer(), {ToolSyntax::none, State::thinking}, {});
  parser.push('a');
  EXPECT_EQ(parser.section(), Kind::reasoning);
  for (const char c : std::string_view("</think>")) parser.push(static_cast<uint8_t>(c));
  EXPECT_EQ(parser.section(), Kind::reasoning);  // the end tag is part of it
  parser.push('b');
  EXPECT_EQ(parser.section(), Kind::content);
}

TEST(Answer, IncompleteCharactersAtTheEnd) {
  EXPECT_EQ(read({}, "a\xE6\x98").content, "a\xEF\xBF\xBD");
  EXPECT_EQ(read({ToolSyntax::none, State::thinking}, "a\xE6\x98").reasoning, "a\xEF\xBF\xBD");
}

/// The tags are special tokens: nobody else sees them.
TEST(Answer, SeesTagsThatAreSpecialTokens) {
  TokenizerFile file = byte_tokenizer_file();
  int32_t id = kSpecial;
  for (const char* tag : {"<think>", "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>",
                          "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"}) {
    AddedToken token;
    token.id = ++id;
    token.content = tag;
    token.special = true;
    file.added_tokens.push_back(token);
  }
  const Tokenizer with_tags(file);
  const auto read_ids = [&](ToolSyntax syntax) {
    AnswerParser parser(with_tags, {syntax}, {});
    AnswerEvents all;
    for (const int32_t token :
         {kSpecial + 1, int32_t{'h'}, kSpecial + 2, int32_t{'y'}, kSpecial, kSpecial + 3, kSpecial + 4, int32_t{'f'},
          kSpecial + 5, int32_t{'{'}, int32_t{'}'}, kSpecial + 6, kSpecial + 7, kSpecial})
      for (const AnswerEvent& e : parser.push(token)) all.push_back(e);
    for (const AnswerEvent& e : parser.finish()) all.push_back(e);
    return all;
  };
  EXPECT_EQ(read_ids(ToolSyntax::deepseek), (AnswerEvents{{Kind::reasoning, "h"},
                                                          {Kind::content, "y"},
                                                          {Kind::tool_call, "", 0, "f"},
                                                          {Kind::tool_call, "{", 0},
                                                          {Kind::tool_call, "}", 0}}));
  std::string content;
  for (const AnswerEvent& e : read_ids(ToolSyntax::none))
    if (e.kind == Kind::content) content += e.text;
  EXPECT_EQ(content, "yf{}");
}

}  // namespace
}  // namespace sluice
