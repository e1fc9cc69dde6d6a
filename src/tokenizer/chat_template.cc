#include "tokenizer/chat_template.h"

#include "base/error.h"

namespace sluice {
namespace {

constexpr std::string_view kBos = "<｜begin▁of▁sentence｜>";
constexpr std::string_view kEos = "<｜end▁of▁sentence｜>";
constexpr std::string_view kOutputsEnd = "<｜tool▁outputs▁end｜>";

std::string tool_calls_text(const std::vector<ChatToolCall>& calls) {
  std::string text = "<｜tool▁calls▁begin｜>";
  for (size_t i = 0; i < calls.size(); ++i)
    text += fmt::format("{}<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n{}\n```<｜tool▁call▁end｜>",
                        i == 0 ? "" : "\n", calls[i].name, calls[i].arguments);
  return text + "<｜tool▁calls▁end｜>";
}

// Every tag strips the white space around it, so that the line breaks here are not part of the text.
constexpr std::string_view kJinja = R"({%- set ns = namespace(system='', first=true, outputs=false) -%}
{%- for message in messages if message['role'] == 'system' -%}
{%- set ns.system = ns.system + ('' if ns.first else '\n\n') + message['content'] -%}
{%- set ns.first = false -%}
{%- endfor -%}
{{- '<｜begin▁of▁sentence｜>' + ns.system -}}
{%- for message in messages -%}
{%- if message['role'] == 'tool' -%}
{{- '' if ns.outputs else '<｜tool▁outputs▁begin｜>' -}}
{%- set ns.outputs = true -%}
{{- '<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' -}}
{%- elif message['role'] == 'user' or message['role'] == 'assistant' -%}
{{- '<｜tool▁outputs▁end｜>' if ns.outputs else '' -}}
{%- if message['role'] == 'user' -%}
{{- '<｜User｜>' + message['content'] -}}
{%- else -%}
{{- '' if ns.outputs else '<｜Assistant｜>' -}}
{{- message['content'] if message['content'] else '' -}}
{%- if message['tool_calls'] -%}
{{- '<｜tool▁calls▁begin｜>' -}}
{%- for call in message['tool_calls'] -%}
{{- '' if loop.first else '\n' -}}
{{- '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + call['function']['name'] + '\n```json\n' -}}
{{- call['function']['arguments'] + '\n```<｜tool▁call▁end｜>' -}}
{%- endfor -%}
{{- '<｜tool▁calls▁end｜>' -}}
{%- endif -%}
{{- '<｜end▁of▁sentence｜>' -}}
{%- endif -%}
{%- set ns.outputs = false -%}
{%- endif -%}
{%- endfor -%}
{{- '<｜tool▁outputs▁end｜>' if ns.outputs else '' -}}
{{- '<｜Assistant｜>' if add_generation_prompt and not ns.outputs else '' -}}
)";

}  // namespace

ChatText render_chat_spans(std::span<const ChatTurn> turns, bool add_generation_prompt) {
  ChatText chat;
  std::string& text = chat.text;
  text = kBos;
  bool first_system = true, in_outputs = false;
  for (const ChatTurn& turn : turns) {
    if (!turn.tool_calls.empty() && turn.role != "assistant")
      fail("messages: expected tool calls of the assistant only, found some of the role {:?}", turn.role);
    if (turn.role != "system") continue;
    if (!first_system) text += "\n\n";
    text += turn.content;
    first_system = false;
  }
  for (const ChatTurn& turn : turns) {
    if (turn.role == "system") continue;
    if (turn.role == "tool") {
      if (!in_outputs) text += "<｜tool▁outputs▁begin｜>";
      in_outputs = true;
      text.append("<｜tool▁output▁begin｜>").append(turn.content).append("<｜tool▁output▁end｜>");
      continue;
    }
    if (turn.role != "user" && turn.role != "assistant")
      fail("messages: expected the role system, user, assistant or tool, found {:?}", turn.role);
    if (in_outputs) text += kOutputsEnd;
    if (turn.role == "user") {
      text.append("<｜User｜>").append(turn.content);
    } else {
      if (!in_outputs) text += "<｜Assistant｜>";
      const size_t begin = text.size();
      text += turn.content;
      if (!turn.tool_calls.empty()) text += tool_calls_text(turn.tool_calls);
      text += kEos;
      chat.assistant.emplace_back(begin, text.size());
    }
    in_outputs = false;
  }
  if (in_outputs) {
    text += kOutputsEnd;
  } else if (add_generation_prompt) {
    text += "<｜Assistant｜>";
  }
  return chat;
}

std::string render_chat(std::span<const ChatTurn> turns, bool add_generation_prompt) {
  return render_chat_spans(turns, add_generation_prompt).text;
}

std::string_view chat_template_jinja() { return kJinja; }

}  // namespace sluice
