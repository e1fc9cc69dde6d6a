// Prompts with the templates of tests/chat/templates and our own.
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "chat/messages.h"
#include "tokenizer/chat_template.h"

namespace sluice {
namespace {

using State = ThinkingSplitter::State;

constexpr const char* kBos = "<｜begin▁of▁sentence｜>";

TokenizerConfig config_of(std::string source) {
  TokenizerConfig config;
  config.bos_token = kBos;
  config.eos_token = "<｜end▁of▁sentence｜>";
  config.chat_template = std::move(source);
  return config;
}

ChatFormat format_of(const std::string& name) {
  return ChatFormat(config_of(read_file(fs::path(SLUICE_SOURCE_DIR) / "tests/chat/templates" / (name + ".jinja"))));
}

ChatFormat ours() { return ChatFormat(config_of(std::string(chat_template_jinja()))); }

ChatRequest request_of(const std::string& messages, const std::string& more = "") {
  return parse_chat_request(parse_ordered_json(R"({"messages": [)" + messages + "]" + more + "}", "body"));
}

std::string refused(const ChatFormat& format, const ChatRequest& request) {
  try {
    format.prompt(request);
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

const std::string kUser = R"({"role": "user", "content": "Q"})";
const std::string kTools = R"(, "tools": [{"type": "function", "function": {"name": "f"}}])";

TEST(ChatFormat, OneQuestion) {
  const ChatRequest request = request_of(kUser);
  EXPECT_EQ(format_of("v2").prompt(request).text, std::string(kBos) + "User: Q\n\nAssistant:");
  EXPECT_EQ(format_of("v3").prompt(request).text, std::string(kBos) + "<｜User｜>Q<｜Assistant｜>");
  EXPECT_EQ(ours().prompt(request).text, std::string(kBos) + "<｜User｜>Q<｜Assistant｜>");
  for (const char* name : {"r1", "r1_revised"}) {
    const ChatPrompt prompt = format_of(name).prompt(request);
    EXPECT_EQ(prompt.text, std::string(kBos) + "<｜User｜>Q<｜Assistant｜><think>\n");
    EXPECT_EQ(prompt.answer.start, State::thinking);
  }
  const ChatPrompt prompt = format_of("v3.1").prompt(request);
  EXPECT_EQ(prompt.text, std::string(kBos) + "<｜User｜>Q<｜Assistant｜></think>");
  EXPECT_EQ(prompt.answer.start, State::answer);
  EXPECT_EQ(prompt.answer.tools, ToolSyntax::none);
  EXPECT_EQ(ours().prompt(request).answer.start, State::start);
  EXPECT_EQ(
      format_of("moonlight").prompt(request).text,
      "<|im_system|>system<|im_middle|>You are a helpful assistant.<|im_end|><|im_user|>user<|im_middle|>Q<|im_end|>"
      "<|im_assistant|>assistant<|im_middle|>");
}

/// Our template in Jinja and the renderer that training uses.
TEST(ChatFormat, OursIsTheFormatOfTraining) {
  const OrderedJson cases =
      parse_ordered_json(read_file(SLUICE_SOURCE_DIR "/tests/tokenizer/chat_cases.json"), "chat_cases.json");
  const ChatTemplate source(chat_template_jinja());
  for (const OrderedJson& test : cases)
    EXPECT_EQ(source.render({{"messages", test["messages"]}, {"add_generation_prompt", test["add_generation_prompt"]}}),
              test["text"].get<std::string>())
        << test["name"];
  EXPECT_GE(cases.size(), 5u);
}

TEST(ChatFormat, BaseModelsCannotChat) {
  const ChatFormat base(config_of(""));
  EXPECT_TRUE(base.is_base());
  EXPECT_EQ(
      refused(base, request_of(kUser)),
      "messages: this is a base model without a chat template: it completes text (/v1/completions), but cannot chat");
  EXPECT_FALSE(ours().is_base());
}

TEST(ChatFormat, ThinkingIsSwitched) {
  const ChatFormat v31 = format_of("v3.1");
  EXPECT_TRUE(v31.has_thinking_switch());
  const ChatPrompt on = v31.prompt(request_of(kUser, R"(, "thinking": {"type": "enabled"})"));
  EXPECT_TRUE(on.text.ends_with("Q<｜Assistant｜><think>"));
  EXPECT_EQ(on.answer.start, State::thinking);
  EXPECT_TRUE(v31.prompt(request_of(kUser, R"(, "thinking": {"type": "disabled"})")).text.ends_with("</think>"));
  EXPECT_TRUE(
      v31.prompt(request_of(kUser, R"(, "chat_template_kwargs": {"thinking": true})")).text.ends_with("<think>"));
  // R1 has no switch, but thinking that is over at once.
  const ChatPrompt off = format_of("r1").prompt(request_of(kUser, R"(, "thinking": {"type": "disabled"})"));
  EXPECT_TRUE(off.text.ends_with("<｜Assistant｜><think>\n\n</think>\n\n"));
  EXPECT_EQ(off.answer.start, State::answer);
  EXPECT_EQ(format_of("r1").prompt(request_of(kUser, R"(, "thinking": {"type": "enabled"})")).answer.start,
            State::thinking);
  EXPECT_EQ(refused(format_of("v3"), request_of(kUser, R"(, "thinking": {"type": "enabled"})")),
            "thinking: this model's chat template cannot switch it on");
  EXPECT_EQ(refused(format_of("v3"), request_of(kUser, R"(, "thinking": {"type": "disabled"})")), "");
}

TEST(ChatFormat, EarlierThinkingIsLeftOut) {
  const ChatRequest request = request_of(
      kUser + R"(, {"role": "assistant", "content": "<think>hm</think>Yes", "reasoning_content": "hm"}, )" + kUser);
  for (const char* name : {"v2", "v3", "r1", "r1_revised", "v3.1", "moonlight", "kimi_k2"}) {
    const std::string text = format_of(name).prompt(request).text;
    EXPECT_EQ(text.find("hm"), std::string::npos) << name;
    EXPECT_NE(text.find("Yes"), std::string::npos) << name;
  }
}

TEST(ChatFormat, MessagesAreContinued) {
  const std::string answer = R"(, {"role": "assistant", "prefix": true, "content": "It is")";
  const ChatPrompt v3 = format_of("v3").prompt(request_of(kUser + answer + "}"));
  EXPECT_TRUE(v3.text.ends_with("Q<｜Assistant｜>It is"));
  EXPECT_TRUE(v3.answer.continued);
  EXPECT_TRUE(
      format_of("v3.1").prompt(request_of(kUser + answer + "}")).text.ends_with("<｜Assistant｜></think>It is"));
  const ChatPrompt r1 = format_of("r1").prompt(request_of(kUser + answer + "}"));
  EXPECT_TRUE(r1.text.ends_with("<think>\n\n</think>\n\nIt is"));
  EXPECT_EQ(r1.answer.start, State::answer);
  const ChatPrompt thought = format_of("r1").prompt(request_of(kUser + answer + R"(, "reasoning_content": "hm"})"));
  EXPECT_TRUE(thought.text.ends_with("<think>\nhm</think>It is"));
  const ChatPrompt thinking = format_of("r1").prompt(
      request_of(kUser + R"(, {"role": "assistant", "prefix": true, "content": "", "reasoning_content": "hm"})"));
  EXPECT_TRUE(thinking.text.ends_with("<think>\nhm"));
  EXPECT_EQ(thinking.answer.start, State::thinking);
  EXPECT_EQ(refused(format_of("v3"), request_of(kUser + answer + R"(, "reasoning_content": "hm"})")),
            "messages[1].reasoning_content: expected none, the answer does not begin with thinking");
}

TEST(ChatFormat, ToolsAreAnnounced) {
  const ChatFormat v3 = format_of("v3"), kimi = format_of("kimi_k2");
  EXPECT_FALSE(v3.has_tools_slot());
  EXPECT_TRUE(kimi.has_tools_slot());
  const ChatRequest request = request_of(kUser, kTools);
  const ChatPrompt prompt = v3.prompt(request);
  EXPECT_EQ(prompt.text, kBos + tool_announcement(request.tools, true) + "<｜User｜>Q<｜Assistant｜>");
  EXPECT_EQ(prompt.answer.tools, ToolSyntax::deepseek);
  EXPECT_EQ(v3.prompt(request_of(R"({"role": "system", "content": "S"}, )" + kUser, kTools)).text,
            kBos + ("S\n\n" + tool_announcement(request.tools, true)) + "<｜User｜>Q<｜Assistant｜>");
  EXPECT_EQ(format_of("v3.1").prompt(request).text,
            kBos + tool_announcement(request.tools, false) + "<｜User｜>Q<｜Assistant｜></think>");
  EXPECT_TRUE(kimi.prompt(request).text.starts_with(
      R"(<|im_system|>tool_declare<|im_middle|>[{"type": "function", "function": {"name": "f"}}]<|im_end|>)"));
  EXPECT_EQ(kimi.prompt(request).answer.tools, ToolSyntax::kimi);
  const ChatPrompt none = v3.prompt(request_of(kUser, kTools + R"(, "tool_choice": "none")"));
  EXPECT_EQ(none.text, std::string(kBos) + "<｜User｜>Q<｜Assistant｜>");
  EXPECT_EQ(none.answer.tools, ToolSyntax::none);
  EXPECT_EQ(refused(format_of("v2"), request),
            "tools: this model's chat template knows no tool calls that can be read");
}

/// Python's Jinja prints None.
TEST(ChatFormat, TemplatesWithoutCallsGetNoNone) {
  const ChatRequest request = request_of(kUser + R"(, {"role": "assistant", "content": null, "tool_calls":
    [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, )" +
                                         kUser);
  EXPECT_EQ(format_of("moonlight").prompt(request).text.find("None"), std::string::npos);
  EXPECT_EQ(refused(format_of("v2"), request), "");
}

TEST(ChatFormat, CallsAreDemanded) {
  const std::string named = kTools + R"(, "tool_choice": {"type": "function", "function": {"name": "f"}})";
  const std::string any = kTools + R"(, "tool_choice": "required")";
  const ChatPrompt v3 = format_of("v3").prompt(request_of(kUser, named));
  EXPECT_TRUE(v3.text.ends_with("<｜Assistant｜>" + v3.answer.begun_call));
  EXPECT_EQ(v3.answer.begun_call, "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n");
  EXPECT_EQ(format_of("v3.1").prompt(request_of(kUser, named)).answer.begun_call,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>");
  EXPECT_EQ(format_of("v3.1").prompt(request_of(kUser, any)).answer.begun_call,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>");
  const ChatPrompt r1 = format_of("r1").prompt(request_of(kUser, any));
  EXPECT_TRUE(
      r1.text.ends_with("<think>\n\n</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>"));
  EXPECT_EQ(r1.answer.start, State::answer);
}

TEST(ChatFormat, ArgumentsAsTheTemplateWantsThem) {
  const std::string call = R"(, {"role": "assistant", "content": null, "tool_calls":
    [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]})";
  const std::string loop = "{% for c in messages[1].tool_calls %}";
  const auto text = [&](const std::string& print) {
    return ChatFormat(config_of(loop + print + "{% endfor %}")).prompt(request_of(kUser + call)).text;
  };
  EXPECT_EQ(text("{{ c['function']['arguments'] }}"), "{\"a\":1}");
  EXPECT_EQ(text("{{ c['function']['arguments']|tojson }}"), "{\"a\": 1}");
  EXPECT_EQ(text("{{ c.function.arguments | tojson }}"), "{\"a\": 1}");
  EXPECT_EQ(text("{% if c.function.arguments is string %}s{% else %}{{ c.function.arguments | tojson }}{% endif %}"),
            "s");
}

TEST(ChatFormat, WhatTheTemplateRefusesIsNamed) {
  const ChatFormat format(config_of("\n{{ raise_exception('roles must alternate') }}"), "config");
  EXPECT_EQ(refused(format, request_of(kUser)),
            "messages: config: chat_template:2: the template refuses: roles must alternate");
  EXPECT_THROW(ChatFormat(config_of("{% bad %}")), Error);
}

TEST(ChatFormat, KnowsTheTime) {
  EXPECT_EQ(ChatFormat(config_of("{{ strftime_now('%Y') }}")).prompt(request_of(kUser), 1735689600).text, "2025");
}

}  // namespace
}  // namespace sluice
