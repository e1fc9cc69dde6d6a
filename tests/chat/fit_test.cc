#include "chat/fit.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "byte_tokenizer.h"

namespace sluice {
namespace {

ChatTurn turn(const std::string& role, const std::string& content) {
  ChatTurn t;
  t.role = role;
  t.content = content;
  return t;
}

FittedChat fit(const std::vector<ChatTurn>& turns, const Tokenizer& t, int64_t most) {
  TokenizerConfig config;
  config.chat_template = chat_template_jinja();
  return fit_chat(turns, ChatFormat(config), t, most);
}

/// "role: content" of every message.
std::vector<std::string> lines(const std::vector<ChatTurn>& turns) {
  std::vector<std::string> out;
  for (const ChatTurn& t : turns) out.push_back(t.role + ": " + t.content);
  return out;
}

int64_t tokens(const std::vector<ChatTurn>& turns) {
  return static_cast<int64_t>(render_chat(turns, true).size());  // one per byte
}

const std::vector<ChatTurn>& chat() {
  static const std::vector<ChatTurn> turns = {
      turn("system", "be kind"), turn("user", "first"),      turn("assistant", "a"), turn("user", "second"),
      turn("assistant", "b"),    turn("system", "be brief"), turn("tool", "42"),     turn("user", "third"),
      turn("assistant", "c"),    turn("user", "fourth"),
  };
  return turns;
}

TEST(FitChat, KeepsWhatFits) {
  const FittedChat fitted = fit(chat(), tokenizer(), tokens(chat()));
  EXPECT_EQ(lines(fitted.turns), lines(chat()));
  EXPECT_EQ(fitted.dropped, 0);
  std::vector<int32_t> ids;
  tokenizer().encode(render_chat(chat(), true), true, ids);
  EXPECT_EQ(fitted.ids, ids);
}

TEST(FitChat, DropsTheOldestMessages) {
  const FittedChat once = fit(chat(), tokenizer(), tokens(chat()) - 1);
  EXPECT_EQ(lines(once.turns),
            (std::vector<std::string>{"system: be kind", "user: second", "assistant: b", "system: be brief", "tool: 42",
                                      "user: third", "assistant: c", "user: fourth"}));
  EXPECT_EQ(once.dropped, 2);
  const FittedChat twice = fit(chat(), tokenizer(), tokens(once.turns) - 1);
  EXPECT_EQ(lines(twice.turns), (std::vector<std::string>{"system: be kind", "system: be brief", "user: third",
                                                          "assistant: c", "user: fourth"}));
  EXPECT_EQ(twice.dropped, 5);
}

TEST(FitChat, DropsNoMoreThanItMust) {
  // The three cuts there are, and the limits between them.
  std::vector<FittedChat> cuts;
  for (int64_t most = tokens(chat()); most > 0; --most) {
    const FittedChat fitted = fit(chat(), tokenizer(), most);
    std::vector<int32_t> ids;
    tokenizer().encode(render_chat(fitted.turns, true), true, ids);
    ASSERT_EQ(fitted.ids, ids);
    if (cuts.empty() || fitted.dropped != cuts.back().dropped) {
      if (!cuts.empty()) {
        EXPECT_EQ(static_cast<int64_t>(cuts.back().ids.size()), most + 1);
      }
      cuts.push_back(fitted);
    }
  }
  ASSERT_EQ(cuts.size(), 4u);
  for (const FittedChat& cut : cuts) EXPECT_EQ(cut.dropped + std::ssize(cut.turns), std::ssize(chat()));
}

TEST(FitChat, KeepsTheLastQuestionAndWhatFollows) {
  const std::vector<ChatTurn> turns = {turn("user", "old"), turn("assistant", "old"), turn("user", "question"),
                                       turn("assistant", "calls"), turn("tool", "result")};
  const FittedChat fitted = fit(turns, tokenizer(), 1);
  EXPECT_EQ(lines(fitted.turns), (std::vector<std::string>{"user: question", "assistant: calls", "tool: result"}));
  EXPECT_EQ(fitted.dropped, 2);
  EXPECT_EQ(static_cast<int64_t>(fitted.ids.size()), tokens(fitted.turns));  // too long all the same
}

TEST(FitChat, WithoutTwoQuestionsThereIsNothingToDrop) {
  for (const std::vector<ChatTurn>& turns : {std::vector<ChatTurn>{},
                                             {turn("system", "s")},
                                             {turn("assistant", "hello")},
                                             {turn("assistant", "hello"), turn("user", "hi")},
                                             {turn("user", "hi"), turn("assistant", "hello")}}) {
    const FittedChat fitted = fit(turns, tokenizer(), 0);
    EXPECT_EQ(lines(fitted.turns), lines(turns));
    EXPECT_EQ(fitted.dropped, 0);
  }
}

TEST(FitChat, DropsAnOpeningOfTheAssistantWithTheFirstQuestion) {
  const std::vector<ChatTurn> turns = {turn("assistant", "hello"), turn("user", "hi"), turn("user", "again")};
  const FittedChat fitted = fit(turns, tokenizer(), 1);
  EXPECT_EQ(lines(fitted.turns), std::vector<std::string>{"user: again"});
  EXPECT_EQ(fitted.dropped, 2);
}

TEST(FitChat, RefusesWhatCannotBeRendered) {
  EXPECT_THROW(fit(std::vector{turn("robot", "x")}, tokenizer(), 100), Error);
}

TEST(FitChat, SaysHowTheAnswerIsRead) {
  TokenizerConfig config;
  config.chat_template = "{{ messages[0].content }}<think>\n";
  const FittedChat fitted = fit_chat(std::vector{turn("user", "x")}, ChatFormat(config), tokenizer(), 100);
  EXPECT_EQ(fitted.answer.start, ThinkingSplitter::State::thinking);
}

}  // namespace
}  // namespace sluice
