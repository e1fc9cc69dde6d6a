// Functions and methods of chat templates.
#include <algorithm>
#include <array>
#include <ctime>

#include "chat/jinja_builtins.h"
#include "chat/jinja_text.h"

namespace sluice::jinja {
namespace {

Value integer(int64_t value) { return Value::Data(value); }

Value range(const Call& call) {
  const auto& v = call.arguments.values;
  const auto number = [&](size_t i) { return need_integer(call.meter, v[i], "range"); };
  const int64_t begin = v.size() == 1 ? 0 : number(0), end = number(v.size() == 1 ? 0 : 1);
  const int64_t step = v.size() == 3 ? number(2) : 1;
  if (step == 0) call.meter.refuse("range: expected a step other than 0");
  std::vector<Value> out;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    call.meter.grow(sizeof(Value));
    out.push_back(integer(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return make_array(call.meter, std::move(out));
}

Value make_dict(const Call& call) {
  Fields fields;
  if (!call.arguments.values.empty()) {
    const Object* object = call.arguments.values[0].object();
    if (!object) call.meter.refuse("dict: expected a mapping, found {}", call.arguments.values[0].kind());
    fields = object->fields;
  }
  for (const auto& [name, value] : call.arguments.named)
    set_field(call.meter, fields, std::make_shared<const std::string>(name), value);
  return make_object(call.meter, std::move(fields));
}

Value make_namespace(const Call& call) {
  const Value dict = make_dict(call);  // the same arguments, and no other namespace among them
  auto space = std::make_shared<Namespace>();
  for (const auto& [name, value] : dict.object()->fields) space->fields.emplace_back(*name, value);
  return Value::Data(std::move(space));
}

Value raise_exception(const Call& call) {
  std::string text;
  append_text(call.meter, text, call.arguments.values[0]);
  call.meter.refuse("the template refuses: {}", text);
}

Value show_time(const Call& call) {
  const std::string& format = need_text(call.meter, call.arguments.values[0], "strftime_now");
  if (format.size() > 200) call.meter.refuse("strftime_now: expected a short format");
  const std::time_t time = call.meter.now;
  std::tm parts{};
  std::array<char, 4096> text{};
  if (!gmtime_r(&time, &parts)) call.meter.refuse("strftime_now: the year is out of range");
  return make_string(call.meter, {text.data(), std::strftime(text.data(), text.size(), format.c_str(), &parts)});
}

const std::string& receiver(const Call& call, const Value& value) { return need_text(call.meter, value, call.name); }

/// A filter under the name of a method of strings.
template <const char* kFilter>
Value like_filter(const Call& call, const Value& value) {
  receiver(call, value);
  return find_filter(kFilter)->apply(call, value);
}
constexpr char kUpper[] = "upper", kLower[] = "lower", kTitle[] = "title", kCapitalize[] = "capitalize";
constexpr char kReplace[] = "replace";

Value stripped(const Call& call, const Value& value, bool left, bool right) {
  const std::string& text = receiver(call, value);
  const Value set = call.arguments.at(0, "chars");
  const std::string* characters = set.is_none() ? nullptr : &need_text(call.meter, set, call.name);
  call.meter.step(1 + text.size() * (characters ? 1 + characters->size() / 8 : 1));
  return make_string(call.meter, std::string(strip(text, characters, left, right)));
}
Value strip_both(const Call& call, const Value& value) { return stripped(call, value, true, true); }
Value strip_left(const Call& call, const Value& value) { return stripped(call, value, true, false); }
Value strip_right(const Call& call, const Value& value) { return stripped(call, value, false, true); }

/// Words, for split() without a separator: what is left after `most` splits is the last one.
std::vector<std::string_view> words(std::string_view text, int64_t most) {
  std::vector<std::string_view> out;
  for (text = strip(text, nullptr, true, true); !text.empty(); text = strip(text, nullptr, true, false)) {
    size_t end = 0;
    while (end < text.size() && strip(text.substr(end, character_size(text.substr(end))), nullptr, true, false).size())
      end += character_size(text.substr(end));
    if (most-- == 0) end = text.size();
    out.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return out;
}

Value split(const Call& call, const Value& value, bool from_right) {
  std::string_view text = receiver(call, value);
  call.meter.grow(2 * text.size());
  const Value separator = call.arguments.at(0, "sep");
  int64_t most = need_integer(call.meter, call.arguments.at(1, "maxsplit", integer(-1)), call.name);
  std::vector<std::string_view> parts;
  if (separator.is_none()) {
    if (from_right && most >= 0) call.meter.refuse("rsplit without a separator is not supported");
    parts = words(text, most);
  } else {
    const std::string& by = need_text(call.meter, separator, call.name);
    if (by.empty()) call.meter.refuse("{}: expected a separator that is not empty", call.name);
    call.meter.search(text.size(), by.size());
    for (; most != 0; --most) {
      const size_t at = from_right ? text.rfind(by) : text.find(by);
      if (at == text.npos) break;
      parts.push_back(from_right ? text.substr(at + by.size()) : text.substr(0, at));
      text = from_right ? text.substr(0, at) : text.substr(at + by.size());
    }
    parts.push_back(text);
    if (from_right) std::reverse(parts.begin(), parts.end());
  }
  call.meter.grow(parts.size() * (sizeof(Value) + sizeof(std::string)));
  std::vector<Value> out;
  for (const std::string_view part : parts) out.push_back(Value::string(std::string(part)));
  return make_array(call.meter, std::move(out));
}
Value split_left(const Call& call, const Value& value) { return split(call, value, false); }
Value split_right(const Call& call, const Value& value) { return split(call, value, true); }

Value split_lines(const Call& call, const Value& value) {
  std::string_view text = receiver(call, value);
  std::vector<Value> out;
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of("\r\n"), text.size());
    call.meter.grow(end + 2 * sizeof(Value));
    out.push_back(Value::string(std::string(text.substr(0, end))));
    text.remove_prefix(end);
    text.remove_prefix(text.starts_with("\r\n") ? 2 : text.empty() ? 0 : 1);
  }
  return make_array(call.meter, std::move(out));
}

template <bool kEnd>
Value has_affix(const Call& call, const Value& value) {
  const std::string& text = receiver(call, value);
  const Value& wanted = call.arguments.values[0];
  const auto fits = [&](const Value& affix) {
    const std::string& a = need_text(call.meter, affix, call.name);
    call.meter.scan(a.size());
    return kEnd ? text.ends_with(a) : text.starts_with(a);
  };
  if (wanted.items()) return Value::Data(std::any_of(wanted.items()->begin(), wanted.items()->end(), fits));
  return Value::Data(fits(wanted));
}

Value find_text(const Call& call, const Value& value) {
  const std::string& text = receiver(call, value);
  const std::string& part = need_text(call.meter, call.arguments.values[0], call.name);
  call.meter.search(text.size(), part.size());
  const size_t at = text.find(part);
  if (at == text.npos) return integer(-1);
  return integer(static_cast<int64_t>(count_characters(std::string_view(text).substr(0, at))));
}

Value count_text(const Call& call, const Value& value) {
  const std::string &text = receiver(call, value), &part = need_text(call.meter, call.arguments.values[0], call.name);
  call.meter.search(text.size(), part.size());
  if (part.empty()) return integer(static_cast<int64_t>(count_characters(text)) + 1);
  int64_t n = 0;
  for (size_t at = 0; (at = text.find(part, at)) != text.npos; at += part.size()) ++n;
  return integer(n);
}

const Object& mapping(const Call& call, const Value& value) {
  if (!value.object()) call.meter.refuse("{}: expected a mapping, found {}", call.name, value.kind());
  return *value.object();
}

Value get(const Call& call, const Value& value) {
  mapping(call, value);
  const Value found = item_of(call.meter, value, call.arguments.values[0]);
  return found.is_undefined() ? call.arguments.at(1, "default") : found;
}

Value keys(const Call& call, const Value& value) {
  mapping(call, value);
  return make_array(call.meter, elements(call.meter, value, call.name));
}

Value values(const Call& call, const Value& value) {
  std::vector<Value> out;
  for (const auto& field : mapping(call, value).fields) out.push_back(field.second);
  return make_array(call.meter, std::move(out));
}

Value items(const Call& call, const Value& value) {
  mapping(call, value);
  return find_filter("items")->apply(call, value);
}

Value cycle(const Call& call, const Value& value) {
  const auto* loop = value.get<std::shared_ptr<Loop>>();
  if (!loop) call.meter.refuse("cycle: expected loop, found {}", value.kind());
  return call.arguments.values[(*loop)->index0 % call.arguments.values.size()];
}

const std::vector<Method>& methods() {
  static const std::vector<Method> all = {
      {"capitalize", {0, 0, {}}, like_filter<kCapitalize>},
      {"count", {1, 1, {}}, count_text},
      {"cycle", {1, 16, {}}, cycle},
      {"endswith", {1, 1, {}}, has_affix<true>},
      {"find", {1, 1, {}}, find_text},
      {"get", {1, 2, {}}, get},
      {"items", {0, 0, {}}, items},
      {"keys", {0, 0, {}}, keys},
      {"lower", {0, 0, {}}, like_filter<kLower>},
      {"lstrip", {0, 1, {}}, strip_left},
      {"replace", {2, 3, {"count"}}, like_filter<kReplace>},
      {"rsplit", {0, 2, {"sep", "maxsplit"}}, split_right},
      {"rstrip", {0, 1, {}}, strip_right},
      {"split", {0, 2, {"sep", "maxsplit"}}, split_left},
      {"splitlines", {0, 0, {}}, split_lines},
      {"startswith", {1, 1, {}}, has_affix<false>},
      {"strip", {0, 1, {}}, strip_both},
      {"title", {0, 0, {}}, like_filter<kTitle>},
      {"upper", {0, 0, {}}, like_filter<kUpper>},
      {"values", {0, 0, {}}, values},
  };
  return all;
}

const std::vector<Function>& functions() {
  static const std::vector<Function> all = {
      {"dict", {0, 64, {kAnyName}}, make_dict},         {"namespace", {0, 64, {kAnyName}}, make_namespace},
      {"raise_exception", {1, 1, {}}, raise_exception}, {"range", {1, 3, {}}, range},
      {"strftime_now", {1, 1, {}}, show_time},
  };
  return all;
}

template <class T>
const T* find(const std::vector<T>& all, std::string_view name) {
  const auto it = std::find_if(all.begin(), all.end(), [&](const T& t) { return t.name == name; });
  return it == all.end() ? nullptr : &*it;
}

}  // namespace

const Method* find_method(std::string_view name) { return find(methods(), name); }
const Function* find_function(std::string_view name) { return find(functions(), name); }

}  // namespace sluice::jinja
