#include "tokenizer/chat_template.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tiny_tokenizer.h"

namespace sluice {
namespace {

std::vector<ChatTurn> turns_of(const nlohmann::json& messages) {
  std::vector<ChatTurn> turns;
  for (const auto& message : messages) {
    ChatTurn turn;
    turn.role = message["role"];
    turn.content = message["content"];
    if (message.contains("tool_calls"))
      for (const auto& call : message["tool_calls"])
        turn.tool_calls.push_back({call["function"]["name"], call["function"]["arguments"]});
    turns.push_back(turn);
  }
  return turns;
}

TEST(ChatTemplate, CasesOfTheSpecification) {
  const auto cases = nlohmann::json::parse(std::ifstream(SLUICE_SOURCE_DIR "/tests/tokenizer/chat_cases.json"));
  ASSERT_FALSE(cases.empty());
  for (const auto& test : cases) {
    SCOPED_TRACE(test["name"].get<std::string>());
    const std::vector<ChatTurn> turns = turns_of(test["messages"]);
    const ChatText chat = render_chat_spans(turns, test["add_generation_prompt"]);
    EXPECT_EQ(chat.text, test["text"].get<std::string>());
    EXPECT_EQ(render_chat(turns, test["add_generation_prompt"]), chat.text);
    ASSERT_EQ(chat.assistant.size(), test["assistant"].size());
    for (size_t i = 0; i < chat.assistant.size(); ++i) {
      const auto [begin, end] = chat.assistant[i];
      EXPECT_EQ(chat.text.substr(begin, end - begin), test["assistant"][i].get<std::string>());
    }
  }
}

TEST(ChatTemplate, RangesMayBeEncodedOneByOne) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const std::vector<ChatTurn> turns = {{{"user", "It is "}, {}},
                                       {{"assistant", " a truth \n"}, {}},
                                       {{"tool", "x"}, {}},
                                       {{"assistant", "of a wife"}, {}},
                                       {{"user", " 12"}, {}}};
  const ChatText chat = render_chat_spans(turns, true);
  std::vector<int32_t> ids;
  size_t done = 0;
  for (const auto& [begin, end] : chat.assistant) {
    tokenizer.encode(std::string_view(chat.text).substr(done, begin - done), true, ids);
    tokenizer.encode(std::string_view(chat.text).substr(begin, end - begin), true, ids);
    done = end;
  }
  tokenizer.encode(std::string_view(chat.text).substr(done), true, ids);
  EXPECT_EQ(ids, encode(tokenizer, chat.text));
}

TEST(ChatTemplate, WrongMessagesAreErrors) {
  const auto error_for = [](const ChatTurn& turn) {
    return error_of([&] { render_chat(std::vector<ChatTurn>{turn}, false); });
  };
  EXPECT_EQ(error_for({{"robot", "x"}, {}}),
            "messages: expected the role system, user, assistant or tool, found \"robot\"");
  EXPECT_NE(error_for({{"user", "x"}, {{"f", "{}"}}}), "");
}

}  // namespace
}  // namespace sluice
