// A request's fields that make the prompt: read, checked, and brought into one form.
#include "chat/messages.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "chat/thinking.h"

namespace sluice {
namespace {

constexpr size_t kMaxTools = 128, kMaxToolName = 64, kMaxTemplateArguments = 64;

[[noreturn]] void refuse(const std::string& path, std::string_view expected, const OrderedJson* found) {
  fail("{}: expected {}, found {}", path, expected, found ? json_excerpt(*found) : "nothing");
}

/// A field, or null where it is missing or null.
const OrderedJson* find(const OrderedJson& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::string need_string(const OrderedJson& object, const char* key, const std::string& path) {
  const OrderedJson* value = find(object, key);
  if (!value || !value->is_string()) refuse(path + "." + key, "a string", value);
  return value->get<std::string>();
}

/// The text of `content`: a string, or parts of the type "text", which are joined as lines.
std::string content_text(const OrderedJson& content, const std::string& path) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) refuse(path, "a string or an array of text parts", &content);
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string part_path = fmt::format("{}[{}]", path, i);
    const OrderedJson& part = content[i];
    if (!part.is_object()) refuse(part_path, "an object", &part);
    const OrderedJson* type = find(part, "type");
    if (!type || *type != "text") refuse(part_path + ".type", "\"text\" (this model reads nothing else)", type);
    if (i > 0) text += '\n';
    text += need_string(part, "text", part_path);
  }
  return text;
}

OrderedJson read_tool_call(const OrderedJson& call, const std::string& path) {
  if (!call.is_object()) refuse(path, "an object", &call);
  const OrderedJson* type = find(call, "type");
  if (type && *type != "function") refuse(path + ".type", "\"function\"", type);
  const OrderedJson* function = find(call, "function");
  if (!function || !function->is_object()) refuse(path + ".function", "an object", function);
  return {{"id", need_string(call, "id", path)},
          {"type", "function"},
          {"function",
           {{"name", need_string(*function, "name", path + ".function")},
            {"arguments", need_string(*function, "arguments", path + ".function")}}}};
}

/// An answer of earlier turns without its thinking, which belongs into reasoning_content.
std::string without_thinking(const std::string& text) {
  ThinkingSplitter splitter;
  const std::string answer = splitter.push(text).answer;
  return splitter.state() == ThinkingSplitter::State::answer ? answer : text;
}

/// The fields that only an assistant's message has.
void read_assistant(const OrderedJson& in, bool is_last, const std::string& path, OrderedJson& out) {
  if (const OrderedJson* calls = find(in, "tool_calls")) {
    if (!calls->is_array()) refuse(path + ".tool_calls", "an array", calls);
    OrderedJson list = OrderedJson::array();
    for (size_t i = 0; i < calls->size(); ++i)
      list.push_back(read_tool_call((*calls)[i], fmt::format("{}.tool_calls[{}]", path, i)));
    if (!list.empty()) out["tool_calls"] = std::move(list);
  }
  for (const char* key : {"reasoning_content", "reasoning"})
    if (find(in, key)) out["reasoning_content"] = need_string(in, key, path);
  if (const OrderedJson* prefix = find(in, "prefix")) {
    if (!prefix->is_boolean()) refuse(path + ".prefix", "a bool", prefix);
    if (*prefix && !is_last) fail("{}.prefix: expected the last message to be the one that is continued", path);
    if (*prefix && out.contains("tool_calls")) fail("{}.prefix: a message with tool_calls cannot be continued", path);
    if (*prefix) out["prefix"] = true;
  }
}

void read_content(const OrderedJson& in, const std::string& path, OrderedJson& out) {
  const OrderedJson* content = find(in, "content");
  const bool may_lack = out.contains("tool_calls") || out.contains("prefix");
  if (!content && !may_lack) refuse(path + ".content", "a string or an array of text parts", content);
  std::string text = content ? content_text(*content, path + ".content") : std::string();
  if (out["role"] == "assistant" && !out.contains("prefix")) text = without_thinking(text);
  // Templates tell by `content is none` that there are only calls.
  out["content"] = text.empty() && out.contains("tool_calls") ? OrderedJson() : OrderedJson(std::move(text));
}

bool is_role(std::string_view role) {
  static constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant", "tool"};
  return std::find(kRoles.begin(), kRoles.end(), role) != kRoles.end();
}

constexpr std::string_view kExpectedRole = "\"system\", \"user\", \"assistant\" or \"tool\"";

OrderedJson read_message(const OrderedJson& in, bool is_last, const std::string& path) {
  if (!in.is_object()) refuse(path, "an object", &in);
  const OrderedJson* role = find(in, "role");
  if (!role || !role->is_string() || !is_role(role->get_ref<const std::string&>()))
    refuse(path + ".role", kExpectedRole, role);
  OrderedJson out = {{"role", *role == "developer" ? OrderedJson("system") : *role}};
  if (*role == "assistant") {
    read_assistant(in, is_last, path, out);
  } else {
    for (const char* key : {"tool_calls", "prefix"})
      if (const OrderedJson* value = find(in, key); value && *value != false)
        fail("{}.{}: expected it in messages of the assistant only", path, key);
  }
  read_content(in, path, out);
  if (*role == "tool") out["tool_call_id"] = need_string(in, "tool_call_id", path);
  if (find(in, "name")) out["name"] = need_string(in, "name", path);
  return out;
}

bool is_tool_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxToolName && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '-' || c == '.';
  });
}

OrderedJson read_tools(const OrderedJson& in) {
  if (!in.is_array() || in.size() > kMaxTools) refuse("tools", fmt::format("an array of at most {}", kMaxTools), &in);
  std::set<std::string> names;
  for (size_t i = 0; i < in.size(); ++i) {
    const std::string path = fmt::format("tools[{}]", i);
    if (!in[i].is_object()) refuse(path, "an object", &in[i]);
    const OrderedJson* type = find(in[i], "type");
    if (!type || *type != "function") refuse(path + ".type", "\"function\"", type);
    const OrderedJson* function = find(in[i], "function");
    if (!function || !function->is_object()) refuse(path + ".function", "an object", function);
    const std::string name = need_string(*function, "name", path + ".function");
    if (!is_tool_name(name))
      refuse(path + ".function.name", "1 to 64 letters, digits, dots, dashes and underscores", &(*function)["name"]);
    if (!names.insert(name).second) fail("{}.function.name: {:?} is there twice", path, name);
    if (find(*function, "description")) need_string(*function, "description", path + ".function");
    if (const OrderedJson* parameters = find(*function, "parameters"); parameters && !parameters->is_object())
      refuse(path + ".function.parameters", "a JSON schema, an object", parameters);
  }
  return in;
}

ToolChoice read_tool_choice(const OrderedJson* in, const OrderedJson& tools) {
  using Kind = ToolChoice::Kind;
  if (!in) return {tools.empty() ? Kind::none : Kind::automatic};
  if (*in == "none") return {Kind::none};
  if (tools.empty()) fail("tool_choice: expected \"none\" without tools, found {}", json_excerpt(*in));
  if (*in == "auto") return {Kind::automatic};
  if (*in == "required") return {Kind::required};
  constexpr std::string_view kExpected =
      "\"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": ...}}";
  if (!in->is_object()) refuse("tool_choice", kExpected, in);
  const OrderedJson *type = find(*in, "type"), *function = find(*in, "function");
  if (!type || *type != "function" || !function || !function->is_object()) refuse("tool_choice", kExpected, in);
  const std::string name = need_string(*function, "name", "tool_choice.function");
  if (std::none_of(tools.begin(), tools.end(), [&](const OrderedJson& t) { return t["function"]["name"] == name; }))
    fail("tool_choice.function.name: expected one of the tools, found {}", json_excerpt(OrderedJson(name)));
  return {Kind::function, name};
}

std::optional<bool> read_thinking(const OrderedJson* in) {
  if (!in) return std::nullopt;
  const OrderedJson* type = in->is_object() ? find(*in, "type") : nullptr;
  if (!type || (*type != "enabled" && *type != "disabled"))
    refuse("thinking", "{\"type\": \"enabled\"} or {\"type\": \"disabled\"}", in);
  return *type == "enabled";
}

/// What the renderer itself sets cannot be set by a request.
OrderedJson read_template_arguments(const OrderedJson* in) {
  if (!in) return OrderedJson::object();
  if (!in->is_object() || in->size() > kMaxTemplateArguments)
    refuse("chat_template_kwargs", fmt::format("an object of at most {} fields", kMaxTemplateArguments), in);
  for (const char* key : {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})
    if (in->contains(key)) fail("chat_template_kwargs.{}: cannot be set by a request", key);
  return *in;
}

}  // namespace

ChatRequest parse_chat_request(const OrderedJson& body) {
  const OrderedJson* messages = find(body, "messages");
  if (!messages || !messages->is_array() || messages->empty()) refuse("messages", "an array of messages", messages);
  ChatRequest request;
  for (size_t i = 0; i < messages->size(); ++i)
    request.messages.push_back(read_message((*messages)[i], i + 1 == messages->size(), fmt::format("messages[{}]", i)));
  if (const OrderedJson* tools = find(body, "tools")) request.tools = read_tools(*tools);
  request.tool_choice = read_tool_choice(find(body, "tool_choice"), request.tools);
  request.template_arguments = read_template_arguments(find(body, "chat_template_kwargs"));
  request.thinking = read_thinking(find(body, "thinking"));
  return request;
}

ChatRequest make_chat_request(std::span<const ChatTurn> turns) {
  ChatRequest request;
  for (const ChatTurn& turn : turns) {
    const OrderedJson role = turn.role;
    if (!is_role(turn.role)) refuse(fmt::format("messages[{}].role", request.messages.size()), kExpectedRole, &role);
    OrderedJson message = {{"role", role}, {"content", turn.content}};
    for (const ChatToolCall& call : turn.tool_calls)
      message["tool_calls"].push_back(
          {{"type", "function"}, {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
    request.messages.push_back(std::move(message));
  }
  return request;
}

}  // namespace sluice
