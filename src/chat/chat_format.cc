// A checkpoint's chat template as it is used: what it can express, and the prompts made with it.
#include <algorithm>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "chat/messages.h"

namespace sluice {
namespace {

using State = ThinkingSplitter::State;

constexpr std::string_view kThink = "<think>", kEndThink = "</think>";

/// Whether a template writes `arguments | tojson`, so that they must not be text that is JSON already. Templates that
/// look at the kind of value themselves take either.
bool writes_arguments_as_json(std::string_view source) {
  if (source.find("is string") != source.npos || source.find("is mapping") != source.npos) return false;
  for (size_t at = 0; (at = source.find("arguments", at)) != source.npos;) {
    at += std::string_view("arguments").size();
    std::string_view rest = source.substr(at);
    rest.remove_prefix(std::min(rest.find_first_not_of("'\"] "), rest.size()));
    if (!rest.starts_with('|')) continue;
    rest.remove_prefix(std::min(rest.find_first_not_of("| "), rest.size()));
    if (rest.starts_with("tojson")) return true;
  }
  return false;
}

/// The arguments of calls as values where they are JSON.
void parse_arguments(OrderedJson& messages) {
  for (OrderedJson& message : messages) {
    if (!message.contains("tool_calls")) continue;
    for (OrderedJson& call : message["tool_calls"]) {
      OrderedJson& arguments = call["function"]["arguments"];
      try {
        arguments = parse_ordered_json(arguments.get<std::string>(), "arguments");
      } catch (const Error&) {
        // What the model wrote once need not be JSON: it stays a string.
      }
    }
  }
}

/// `text` becomes the end of the first message if that is the system's, else a system message before all others.
void add_to_system(OrderedJson& messages, const std::string& text) {
  if (!messages.empty() && messages[0]["role"] == "system") {
    const std::string before = messages[0]["content"].get<std::string>();
    messages[0]["content"] = before.empty() ? text : before + "\n\n" + text;
  } else {
    messages.insert(messages.begin(), OrderedJson{{"role", "system"}, {"content", text}});
  }
}

bool demands_call(const ChatRequest& request) {
  using Kind = ToolChoice::Kind;
  return request.tool_choice.kind == Kind::required || request.tool_choice.kind == Kind::function;
}

bool is_continued(const ChatRequest& request) {
  return !request.messages.empty() && request.messages.back().contains("prefix");
}

/// Closes the thinking that the prompt has begun, in the manner of the model: R1 writes lines around it.
void end_thinking(std::string& text) { text += text.ends_with('\n') ? "\n</think>\n\n" : "</think>"; }

}  // namespace

ChatFormat::ChatFormat(const TokenizerConfig& config, const std::string& name)
    : bos_(config.bos_token.value_or("")), eos_(config.eos_token.value_or("")) {
  const std::string& source = config.chat_template;
  if (source.empty()) return;
  template_.emplace(source, name + ": chat_template");
  syntax_ = tool_syntax_of(source);
  tools_slot_ = template_->reads("tools");
  writes_calls_ = source.find("tool_calls") != source.npos;
  fenced_ = source.find("```json") != source.npos;
  arguments_as_json_ = writes_arguments_as_json(source);
  for (const char* variable : {"thinking", "enable_thinking"})
    if (thinking_variable_.empty() && template_->reads(variable)) thinking_variable_ = variable;
}

ChatPrompt ChatFormat::prompt(const ChatRequest& request, int64_t now) const {
  if (is_base())
    fail(
        "messages: this is a base model without a chat template: it completes text (/v1/completions), but cannot chat");
  ChatPrompt prompt;
  const bool with_tools = !request.tools.empty() && request.tool_choice.kind != ToolChoice::Kind::none;
  if (with_tools) {
    if (syntax_ == ToolSyntax::none || (!tools_slot_ && syntax_ != ToolSyntax::deepseek))
      fail("tools: this model's chat template knows no tool calls that can be read");
    prompt.answer.tools = syntax_;
  }
  try {
    prompt.text = template_->render(context(request), now);
  } catch (const Error& e) {
    fail("messages: {}", e.what());
  }
  append_answer_start(request, prompt);
  return prompt;
}

/// The variables of the template.
OrderedJson ChatFormat::context(const ChatRequest& request) const {
  OrderedJson context = request.template_arguments;
  OrderedJson messages = request.messages;
  if (is_continued(request)) messages.erase(messages.size() - 1);
  if (arguments_as_json_) parse_arguments(messages);
  if (!writes_calls_)
    for (OrderedJson& message : messages)
      if (message["content"].is_null()) message["content"] = "";  // beside calls, which the template does not write
  if (!request.tools.empty() && request.tool_choice.kind != ToolChoice::Kind::none) {
    if (tools_slot_) {
      context["tools"] = request.tools;
    } else {
      add_to_system(messages, tool_announcement(request.tools, fenced_));
    }
  }
  if (request.thinking && has_thinking_switch()) context[thinking_variable_] = *request.thinking;
  context["messages"] = std::move(messages);
  context["add_generation_prompt"] = true;
  context["bos_token"] = bos_;
  context["eos_token"] = eos_;
  return context;
}

/// What stands between the rendered messages and the model's answer: thinking that the request does not want, the
/// beginning of a message to be continued, the call that it demands.
void ChatFormat::append_answer_start(const ChatRequest& request, ChatPrompt& prompt) const {
  std::string& text = prompt.text;
  AnswerFormat& answer = prompt.answer;
  const std::string_view end = std::string_view(text).substr(0, text.find_last_not_of('\n') + 1);
  if (end.ends_with(kThink)) answer.start = State::thinking;
  if (end.ends_with(kEndThink)) answer.start = State::answer;
  const auto leave_thinking = [&] {
    if (answer.start == State::thinking) end_thinking(text);
    answer.start = State::answer;
  };
  if (request.thinking && *request.thinking && !has_thinking_switch() && answer.start != State::thinking)
    fail("thinking: this model's chat template cannot switch it on");
  if (request.thinking && !*request.thinking && answer.start == State::thinking) leave_thinking();
  if (is_continued(request)) {
    const OrderedJson& last = request.messages.back();
    const std::string reasoning = last.value("reasoning_content", std::string());
    const std::string content = last["content"].is_string() ? last["content"].get<std::string>() : std::string();
    if (!reasoning.empty() && answer.start != State::thinking)
      fail("messages[{}].reasoning_content: expected none, the answer does not begin with thinking",
           request.messages.size() - 1);
    if (!reasoning.empty()) text += reasoning;
    if (!content.empty()) {
      leave_thinking();
      text += content;
    }
    answer.continued = true;
  }
  if (demands_call(request)) {
    leave_thinking();
    answer.begun_call = begun_call(syntax_, request.tool_choice.function, fenced_);
    text += answer.begun_call;
  }
}

}  // namespace sluice
