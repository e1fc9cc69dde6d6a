#include "chat/tools.h"

#include <algorithm>
#include <array>
#include <initializer_list>

#include "base/error.h"
#include "chat/jinja_value.h"

namespace sluice {
namespace {

using Tags = ToolCallParser::Tags;

constexpr size_t kMaxName = 256;  // bytes of a function's name and of what stands before it
constexpr std::string_view kSpace = " \t\r\n", kFence = "```";

constexpr Tags kDeepSeek = {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>",
                            "<｜tool▁call▁end｜>"};
constexpr Tags kKimi = {"<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>",
                        "<|tool_call_argument_begin|>", "<|tool_call_end|>"};

std::string_view strip_left(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of(kSpace), text.size()));
}
std::string_view strip_right(std::string_view text) { return text.substr(0, text.find_last_not_of(kSpace) + 1); }
bool is_space(std::string_view text) { return text.find_first_not_of(kSpace) == text.npos; }
std::string_view strip(std::string_view text) { return strip_left(strip_right(text)); }

struct Found {
  size_t at = std::string_view::npos;
  std::string_view tag;
};

/// The first of `tags` in `text`, not before `from`.
Found find_first(std::string_view text, std::initializer_list<std::string_view> tags, size_t from = 0) {
  Found first;
  for (const std::string_view tag : tags)
    if (const size_t at = text.find(tag, from); at < first.at) first = {at, tag};
  return first;
}

/// The length of the longest end of `text` that a longer text could make one of `tags`.
size_t unfinished_end(std::string_view text, std::initializer_list<std::string_view> tags) {
  size_t longest = 0;
  for (const std::string_view tag : tags)
    for (size_t n = std::min(tag.size() - 1, text.size()); n > longest; --n)
      if (text.ends_with(tag.substr(0, n))) longest = n;
  return longest;
}

/// Without the white space at the end and, of fenced arguments, the fence.
std::string_view without_end(std::string_view text, bool fenced) {
  text = strip_right(text);
  if (!fenced) return text;
  for (size_t n = 0; n < kFence.size() && text.ends_with('`'); ++n) text.remove_suffix(1);
  return strip_right(text);
}

/// "functions.NAME:0" of Kimi -> "NAME".
std::string_view kimi_name(std::string_view id) {
  if (id.starts_with("functions.")) id.remove_prefix(10);
  return id.substr(0, id.rfind(':'));
}

bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxName &&
         std::none_of(name.begin(), name.end(), [](unsigned char c) { return c <= ' ' || c == 0x7f; });
}

std::string call_text(std::string_view name, std::string_view arguments, bool fenced) {
  return fenced ? fmt::format("{}function{}{}\n```json\n{}\n```{}", kDeepSeek.call_begin, kDeepSeek.separator, name,
                              arguments, kDeepSeek.call_end)
                : fmt::format("{}{}{}{}{}", kDeepSeek.call_begin, name, kDeepSeek.separator, arguments,
                              kDeepSeek.call_end);
}

}  // namespace

ToolSyntax tool_syntax_of(std::string_view chat_template) {
  // The first template of Kimi-K2 declares tools and leaves out earlier calls.
  for (const std::string_view mark : {kKimi.call_begin, std::string_view("<|im_system|>tool_declare")})
    if (chat_template.find(mark) != chat_template.npos) return ToolSyntax::kimi;
  return chat_template.find(kDeepSeek.call_begin) != chat_template.npos ? ToolSyntax::deepseek : ToolSyntax::none;
}

std::string tool_announcement(const OrderedJson& tools, bool fenced) {
  static const std::string kName = "tools";
  std::string text = "## Tools\nYou have access to the following tools:\n";
  jinja::Meter meter(kName, 0);
  for (const OrderedJson& tool : tools) {
    const OrderedJson& function = tool.at("function");
    const auto description = function.find("description"), parameters = function.find("parameters");
    const bool is_described = description != function.end() && description->is_string();
    text += fmt::format("\n### {}\nDescription: {}\n\nParameters: ", function.at("name").get<std::string>(),
                        is_described ? description->get<std::string>() : "");
    const OrderedJson schema =
        parameters != function.end() && parameters->is_object() ? *parameters : OrderedJson::object();
    jinja::append_json_text(meter, text, jinja::from_json(meter, schema), {});
    text += '\n';
  }
  text += fmt::format(
      "\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n{}{}{{additional_tool_calls}}{}\n\n"
      "Where:\n"
      "- `tool_call_name` must be an exact match to one of the available tools\n"
      "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n",
      kDeepSeek.section_begin, call_text("tool_call_name", "tool_call_arguments", fenced), kDeepSeek.section_end);
  return text + (fenced ? "- For multiple tool calls, write them one after the other, each on a new line\n"
                        : "- For multiple tool calls, chain them directly without separators or spaces\n");
}

std::string begun_call(ToolSyntax syntax, std::string_view function, bool fenced) {
  check(syntax != ToolSyntax::none, "begun_call: expected a syntax");
  const Tags& tags = syntax == ToolSyntax::kimi ? kKimi : kDeepSeek;
  std::string text = fmt::format("{}{}", tags.section_begin, tags.call_begin);
  if (syntax == ToolSyntax::kimi) {
    text += "functions.";
    return function.empty() ? text : text + fmt::format("{}:0{}", function, tags.separator);
  }
  if (fenced) text += fmt::format("function{}", tags.separator);
  if (function.empty()) return text;
  return text + (fenced ? fmt::format("{}\n```json\n", function) : fmt::format("{}{}", function, tags.separator));
}

ToolCallParser::ToolCallParser(ToolSyntax syntax)
    : syntax_(syntax), tags_(syntax == ToolSyntax::kimi ? &kKimi : &kDeepSeek) {}

void ToolCallParser::push(std::string_view piece, AnswerEvents& events) {
  if (syntax_ == ToolSyntax::none) return add_content(piece, events);
  held_ += piece;
  while (step(false, events)) {
  }
}

void ToolCallParser::finish(AnswerEvents& events) {
  while (step(true, events)) {
  }
}

/// Does what can be done with the text that is held; false when that needs more.
bool ToolCallParser::step(bool end, AnswerEvents& events) {
  switch (state_) {
    case State::content:
      return step_content(end, events);
    case State::between:
      return step_between(end);
    case State::head:
      return step_head(end, events);
    case State::fence:
      return step_fence(end);
    case State::arguments:
      return step_arguments(end, events);
  }
  return false;
}

bool ToolCallParser::step_content(bool end, AnswerEvents& events) {
  const std::string_view text = held_;
  if (const Found tag = find_first(text, {tags_->section_begin, tags_->call_begin}, scanned_); !tag.tag.empty()) {
    add_content(strip_right(text.substr(0, tag.at)), events);
    held_.erase(0, tag.at + tag.tag.size());
    scanned_ = 0;
    enter(tag.tag);
    return true;
  }
  const size_t held_back = unfinished_end(text, {tags_->section_begin, tags_->call_begin});
  const size_t size = text.size() - (end ? 0 : held_back);
  const size_t certain = end                                                ? size
                         : is_space(text.substr(scanned_, size - scanned_)) ? 0
                                                                            : strip_right(text.substr(0, size)).size();
  add_content(text.substr(0, certain), events);
  held_.erase(0, certain);
  scanned_ = size - certain;
  return false;
}

bool ToolCallParser::step_between(bool end) {
  held_ = strip_left(held_);
  if (held_.empty()) return false;
  for (const std::string_view tag : {tags_->call_begin, tags_->section_end, tags_->call_end}) {
    if (held_.starts_with(tag)) {
      held_.erase(0, tag.size());
      enter(tag);
      return true;
    }
    if (!end && tag.starts_with(held_)) return false;
  }
  state_ = State::content;
  return true;
}

bool ToolCallParser::step_head(bool end, AnswerEvents& events) {
  const std::string_view text = held_;
  const auto ends = {tags_->call_end, tags_->section_end, tags_->call_begin};
  const size_t separator = text.find(tags_->separator), other = find_first(text, ends).at;
  if (separator > kMaxName || other < separator) {
    const bool wait = !end && separator == text.npos && other == text.npos && text.size() <= kMaxName + 64;
    return !wait && give_up_head(std::min(other, text.size()), events);
  }
  const std::string_view head = strip(text.substr(0, separator));
  const size_t begin = separator + tags_->separator.size();
  const std::string_view name = syntax_ == ToolSyntax::kimi ? kimi_name(head) : head;
  const std::string_view rest = strip_left(text.substr(begin));
  if (syntax_ == ToolSyntax::deepseek && head == "function") {
    if (text.size() - rest.size() - begin > kMaxName) return give_up_head(begin, events);
    if (rest.empty() && !end) return false;  // V3, or V3.1 and a function of that name
    if (!rest.starts_with('{')) {
      const size_t stop = std::min({rest.find('\n'), find_first(rest, ends).at, rest.size()});
      if (stop == rest.size() && stop <= kMaxName + 64 && !end) return false;
      if (!is_name(strip(rest.substr(0, stop)))) return give_up_head(begin, events);
      begin_call(strip(rest.substr(0, stop)), text.size() - rest.size() + stop, true, events);
      return true;
    }
  }
  if (!is_name(name)) return give_up_head(begin, events);
  begin_call(name, begin, false, events);
  return true;
}

/// The call's head, of which `used` bytes are held, becomes content.
bool ToolCallParser::give_up_head(size_t used, AnswerEvents& events) {
  add_content(fmt::format("{}{}", tags_->call_begin, held_.substr(0, used)), events);
  held_.erase(0, used);
  state_ = State::content;
  // What closes the broken call is no content.
  for (const std::string_view tag : {tags_->call_end, tags_->section_end})
    if (held_.starts_with(tag)) {
      held_.erase(0, tag.size());
      enter(tag);
      break;
    }
  return true;
}

void ToolCallParser::begin_call(std::string_view name, size_t used, bool fenced, AnswerEvents& events) {
  events.push_back({AnswerEvent::Kind::tool_call, {}, num_calls_++, std::string(name)});
  fenced_ = fenced;
  has_arguments_ = false;
  state_ = fenced ? State::fence : State::arguments;
  held_.erase(0, used);
}

/// The fence before the arguments, with the language after it; it may be missing.
bool ToolCallParser::step_fence(bool end) {
  held_ = strip_left(held_);
  const std::string_view text = held_;
  if (!end && kFence.starts_with(text.substr(0, kFence.size())) && text.size() < kFence.size()) return false;
  size_t used = 0;
  if (text.starts_with(kFence)) {
    const size_t stop = text.find_first_of("\n{");
    const bool closed = find_first(text, {tags_->call_end, tags_->section_end, tags_->call_begin}).at < stop;
    if (stop == text.npos && !closed && !end && text.size() < kMaxName) return false;
    used = closed || stop == text.npos ? kFence.size() : stop;
  }
  held_.erase(0, used);
  state_ = State::arguments;
  return true;
}

bool ToolCallParser::step_arguments(bool end, AnswerEvents& events) {
  const auto ends = {tags_->call_end, tags_->section_end, tags_->call_begin};
  if (!has_arguments_) held_ = strip_left(held_);
  const std::string_view text = held_;
  const Found tag = find_first(text, ends, scanned_);
  const bool closed = !tag.tag.empty();
  const std::string_view certain = text.substr(0, closed ? tag.at
                                                  : end  ? text.size()
                                                         : text.size() - unfinished_end(text, ends));
  const bool more = closed || end || !is_space(certain.substr(scanned_));
  const std::string_view arguments = more ? without_end(certain, fenced_) : std::string_view();
  add_arguments(arguments, events);
  if (!closed && !end) {
    scanned_ = certain.size() - arguments.size();
    held_.erase(0, arguments.size());
    return false;
  }
  scanned_ = 0;
  if (!has_arguments_) add_arguments("{}", events);
  held_.erase(0, closed ? tag.at + tag.tag.size() : held_.size());
  enter(tag.tag);
  return closed;
}

/// The state after a tag; after the end of the text, which is no tag, that of content.
void ToolCallParser::enter(std::string_view tag) {
  state_ = tag == tags_->section_begin || tag == tags_->call_end ? State::between
           : tag == tags_->call_begin                            ? State::head
                                                                 : State::content;
}

void ToolCallParser::add_content(std::string_view text, AnswerEvents& events) const {
  if (text.empty()) return;
  if (!events.empty() && events.back().kind == AnswerEvent::Kind::content) {
    events.back().text += text;
  } else {
    events.push_back({AnswerEvent::Kind::content, std::string(text)});
  }
}

void ToolCallParser::add_arguments(std::string_view text, AnswerEvents& events) {
  if (text.empty()) return;
  has_arguments_ = true;
  events.push_back({AnswerEvent::Kind::tool_call, std::string(text), num_calls_ - 1});
}

}  // namespace sluice
