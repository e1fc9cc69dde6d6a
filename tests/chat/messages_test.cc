#include "chat/messages.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace sluice {
namespace {

ChatRequest request_of(std::string_view json) { return parse_chat_request(parse_ordered_json(json, "body")); }

std::string refused(std::string_view json) {
  try {
    request_of(json);
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

std::string refused_message(const std::string& message) { return refused(R"({"messages": [)" + message + "]}"); }

constexpr const char* kTools = R"("tools": [{"type": "function", "function": {"name": "f"}}])";

TEST(Messages, AreBroughtIntoOneForm) {
  const ChatRequest request = request_of(R"({"model": "m", "messages": [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "name": "Ann", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {"role": "assistant", "content": "<think>hm</think>Yes", "reasoning": "r", "prefix": false, "refusal": null},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "1", "content": "x"},
    {"role": "assistant", "content": "<think>never closed", "tool_calls": []},
    {"role": "assistant", "prefix": true, "content": "<think>a</think>b", "reasoning_content": "q"}]})");
  EXPECT_EQ(request.messages, parse_ordered_json(R"([
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "a\nb", "name": "Ann"},
    {"role": "assistant", "reasoning_content": "r", "content": "Yes"},
    {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
     "content": null},
    {"role": "tool", "content": "x", "tool_call_id": "1"},
    {"role": "assistant", "content": "<think>never closed"},
    {"role": "assistant", "reasoning_content": "q", "prefix": true, "content": "<think>a</think>b"}])",
                                                 "expected"));
  EXPECT_TRUE(request.tools.empty());
  EXPECT_EQ(request.tool_choice.kind, ToolChoice::Kind::none);
  EXPECT_FALSE(request.thinking);
}

TEST(Messages, ToolsAndTheirChoice) {
  using Kind = ToolChoice::Kind;
  const std::string begin = std::string(R"({"messages": [{"role": "user", "content": "x"}], )") + kTools;
  EXPECT_EQ(request_of(begin + "}").tool_choice.kind, Kind::automatic);
  EXPECT_EQ(request_of(begin + "}").tools.size(), 1u);
  EXPECT_EQ(request_of(begin + R"(, "tool_choice": "none"})").tool_choice.kind, Kind::none);
  EXPECT_EQ(request_of(begin + R"(, "tool_choice": "required"})").tool_choice.kind, Kind::required);
  const ChatRequest named = request_of(begin + R"(, "tool_choice": {"type": "function", "function": {"name": "f"}}})");
  EXPECT_EQ(named.tool_choice.kind, Kind::function);
  EXPECT_EQ(named.tool_choice.function, "f");
}

TEST(Messages, ThinkingAndTemplateArguments) {
  const std::string begin = R"({"messages": [{"role": "user", "content": "x"}], )";
  EXPECT_EQ(request_of(begin + R"("thinking": {"type": "enabled"}})").thinking, true);
  EXPECT_EQ(request_of(begin + R"("thinking": {"type": "disabled"}})").thinking, false);
  EXPECT_EQ(request_of(begin + R"("chat_template_kwargs": {"a": 1}})").template_arguments, OrderedJson({{"a", 1}}));
}

TEST(Messages, WrongOnesAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "messages: expected an array of messages, found nothing"},
      {R"({"messages": []})", "messages: expected an array of messages, found []"},
      {R"({"messages": "x"})", "messages: expected an array of messages, found \"x\""},
  };
  for (const auto& [json, message] : cases) EXPECT_EQ(refused(json), message);
  const std::pair<const char*, const char*> messages[] = {
      {R"(1)", "messages[0]: expected an object, found 1"},
      {R"({"content": "x"})", R"(messages[0].role: expected "system", "user", "assistant" or "tool", found nothing)"},
      {R"({"role": "robot", "content": "x"})",
       R"(messages[0].role: expected "system", "user", "assistant" or "tool", found "robot")"},
      {R"({"role": "user"})", "messages[0].content: expected a string or an array of text parts, found nothing"},
      {R"({"role": "user", "content": 7})",
       "messages[0].content: expected a string or an array of text parts, found 7"},
      {R"({"role": "user", "content": ["x"]})", "messages[0].content[0]: expected an object, found \"x\""},
      {R"({"role": "user", "content": [{"type": "image_url"}]})",
       R"(messages[0].content[0].type: expected "text" (this model reads nothing else), found "image_url")"},
      {R"({"role": "user", "content": [{"type": "text", "text": 1}]})",
       "messages[0].content[0].text: expected a string, found 1"},
      {R"({"role": "user", "content": "x", "name": 1})", "messages[0].name: expected a string, found 1"},
      {R"({"role": "user", "content": "x", "prefix": true})",
       "messages[0].prefix: expected it in messages of the assistant only"},
      {R"({"role": "user", "content": "x", "tool_calls": []})",
       "messages[0].tool_calls: expected it in messages of the assistant only"},
      {R"({"role": "tool", "content": "x"})", "messages[0].tool_call_id: expected a string, found nothing"},
      {R"({"role": "assistant"})", "messages[0].content: expected a string or an array of text parts, found nothing"},
      {R"({"role": "assistant", "content": "x", "prefix": 1})", "messages[0].prefix: expected a bool, found 1"},
      {R"({"role": "assistant", "content": "x", "prefix": true}, {"role": "user", "content": "y"})",
       "messages[0].prefix: expected the last message to be the one that is continued"},
      {R"({"role": "assistant", "content": "x", "reasoning_content": 1})",
       "messages[0].reasoning_content: expected a string, found 1"},
      {R"({"role": "assistant", "tool_calls": 1})", "messages[0].tool_calls: expected an array, found 1"},
      {R"({"role": "assistant", "tool_calls": [1]})", "messages[0].tool_calls[0]: expected an object, found 1"},
      {R"({"role": "assistant", "tool_calls": [{"id": "1"}]})",
       "messages[0].tool_calls[0].function: expected an object, found nothing"},
      {R"({"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {}}}]})",
       "messages[0].tool_calls[0].function.arguments: expected a string, found {}"},
      {R"({"role": "assistant", "tool_calls": [{"id": "1", "type": "x"}]})",
       R"(messages[0].tool_calls[0].type: expected "function", found "x")"},
      {R"({"role": "assistant", "prefix": true, "content": "x",
           "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]})",
       "messages[0].prefix: a message with tool_calls cannot be continued"},
  };
  for (const auto& [json, message] : messages) EXPECT_EQ(refused_message(json), message);
}

TEST(Messages, WrongToolsAndSwitchesAreNamed) {
  const std::string f = R"({"type": "function", "function": {"name": "f"}})";
  const std::pair<std::string, const char*> cases[] = {
      {R"("tools": 1)", "tools: expected an array of at most 128, found 1"},
      {R"("tools": [1])", "tools[0]: expected an object, found 1"},
      {R"("tools": [{"type": "x"}])", "tools[0].type: expected \"function\", found \"x\""},
      {R"("tools": [{"type": "function"}])", "tools[0].function: expected an object, found nothing"},
      {R"("tools": [{"type": "function", "function": {}}])",
       "tools[0].function.name: expected a string, found nothing"},
      {R"("tools": [{"type": "function", "function": {"name": "a b"}}])",
       "tools[0].function.name: expected 1 to 64 letters, digits, dots, dashes and underscores, found \"a b\""},
      {R"("tools": [{"type": "function", "function": {"name": "f", "parameters": []}}])",
       "tools[0].function.parameters: expected a JSON schema, an object, found []"},
      {R"("tools": [{"type": "function", "function": {"name": "f", "description": 1}}])",
       "tools[0].function.description: expected a string, found 1"},
      {R"("tools": [)" + f + "," + f + "]", "tools[1].function.name: \"f\" is there twice"},
      {R"("tool_choice": "auto")", "tool_choice: expected \"none\" without tools, found \"auto\""},
      {std::string(kTools) + R"(, "tool_choice": {"type": "function", "function": {"name": "g"}})",
       "tool_choice.function.name: expected one of the tools, found \"g\""},
      {std::string(kTools) + R"(, "tool_choice": 1)",
       R"(tool_choice: expected "none", "auto", "required" or {"type": "function", "function": {"name": ...}}, found 1)"},
      {R"("thinking": true)", R"(thinking: expected {"type": "enabled"} or {"type": "disabled"}, found true)"},
      {R"("chat_template_kwargs": 1)", "chat_template_kwargs: expected an object of at most 64 fields, found 1"},
      {R"("chat_template_kwargs": {"messages": []})", "chat_template_kwargs.messages: cannot be set by a request"},
  };
  for (const auto& [fields, message] : cases)
    EXPECT_EQ(refused(R"({"messages": [{"role": "user", "content": "x"}], )" + fields + "}"), message);
}

}  // namespace
}  // namespace sluice
