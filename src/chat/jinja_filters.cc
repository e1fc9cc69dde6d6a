#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "chat/jinja_builtins.h"
#include "chat/jinja_text.h"

namespace sluice::jinja {
namespace {

Value integer(int64_t value) { return Value::Data(value); }

std::string text_of(Meter& meter, const Value& value) {
  std::string text;
  append_text(meter, text, value);
  return text;
}

/// `value`.a.b for the path "a.b".
Value follow(Meter& meter, const Value& value, std::string_view path) {
  const size_t dot = std::min(path.find('.'), path.size());
  const Value field = field_of(meter, value, path.substr(0, dot));
  return dot == path.size() ? field : follow(meter, field, path.substr(dot + 1));
}

/// The arguments from `first` on, for a filter or test that another filter calls.
Arguments rest_of(const Arguments& all, size_t first) {
  Arguments rest;
  if (first < all.values.size())
    rest.values.assign(all.values.begin() + static_cast<std::ptrdiff_t>(first), all.values.end());
  rest.named = all.named;
  return rest;
}

void check_count(const Meter& meter, const Signature& signature, size_t given, std::string_view name) {
  if (given < signature.least || given > signature.most)
    meter.refuse("{} with {} arguments is not supported", name, given);
}

Value map(const Call& call, const Value& value) {
  Meter& meter = call.meter;
  const std::vector<Value> all = elements(meter, value, "map");
  std::vector<Value> out;
  if (call.arguments.values.empty()) {
    const Value attribute = call.arguments.at(SIZE_MAX, "attribute");
    const std::string& path = need_text(meter, attribute, "map(attribute)");
    const Value fallback = call.arguments.at(SIZE_MAX, "default", Value::undefined(path.substr(0, 40)));
    meter.step(path.size());
    for (const Value& item : all) {
      meter.scan(path.size());
      const Value found = follow(meter, item, path);
      out.push_back(found.is_undefined() ? fallback : found);
    }
    return make_array(meter, std::move(out));
  }
  const std::string& name = need_text(meter, call.arguments.values[0], "map");
  const Filter* filter = find_filter(name);
  // Filters that call filters could call themselves.
  if (!filter || filter->apply == map) meter.refuse("the filter {:?} in map is not supported", name.substr(0, 40));
  Arguments rest = rest_of(call.arguments, 1);
  check_count(meter, filter->signature, rest.values.size() + rest.named.size(), name);
  for (const Value& item : all) {
    meter.step();
    out.push_back(filter->apply({meter, filter->name, rest}, item));
  }
  return make_array(meter, std::move(out));
}

/// select, reject and the forms of them that look at an attribute.
Value choose(const Call& call, const Value& value, bool by_attribute, bool wanted) {
  Meter& meter = call.meter;
  const size_t test_at = by_attribute ? 1 : 0;
  const Test* test = nullptr;
  if (call.arguments.values.size() > test_at) {
    const std::string& name = need_text(meter, call.arguments.values[test_at], call.name);
    test = find_test(name);
    if (!test) meter.refuse("the test {:?} in {} is not supported", name.substr(0, 40), call.name);
  }
  Arguments rest = rest_of(call.arguments, test_at + 1);
  if (test) check_count(meter, test->signature, rest.values.size() + rest.named.size(), test->name);
  std::vector<Value> out;
  for (const Value& item : elements(meter, value, call.name)) {
    meter.step();
    const Value seen = by_attribute ? follow(meter, item, need_text(meter, call.arguments.values[0], call.name)) : item;
    if ((test ? test->apply({meter, test->name, rest}, seen) : seen.truth()) == wanted) out.push_back(item);
  }
  return make_array(meter, std::move(out));
}

Value select(const Call& call, const Value& value) { return choose(call, value, false, true); }
Value reject(const Call& call, const Value& value) { return choose(call, value, false, false); }
Value select_attribute(const Call& call, const Value& value) { return choose(call, value, true, true); }
Value reject_attribute(const Call& call, const Value& value) { return choose(call, value, true, false); }

Value to_json(const Call& call, const Value& value) {
  Meter& meter = call.meter;
  JsonStyle style;
  style.ascii = call.arguments.at(0, "ensure_ascii").truth();
  style.sorted = call.arguments.at(3, "sort_keys").truth();
  if (const Value indent = call.arguments.at(1, "indent"); !indent.is_none()) {
    style.indent = static_cast<int>(std::clamp<int64_t>(need_integer(meter, indent, "tojson(indent)"), 0, 32));
    style.item_separator = ",";
  }
  if (const Value separators = call.arguments.at(2, "separators"); !separators.is_none()) {
    const auto* pair = separators.items();
    if (!pair || pair->size() != 2) meter.refuse("tojson(separators): expected two strings");
    style.item_separator = need_text(meter, (*pair)[0], "tojson(separators)");
    style.key_separator = need_text(meter, (*pair)[1], "tojson(separators)");
    if (style.item_separator.size() + style.key_separator.size() > 16)
      meter.refuse("tojson(separators): expected short strings");
  }
  std::string out;
  append_json_text(meter, out, value, style);
  return Value::string(std::move(out));
}

Value trim(const Call& call, const Value& value) {
  const std::string text = text_of(call.meter, value);
  const Value set = call.arguments.at(0, "chars");
  const std::string* characters = set.is_none() ? nullptr : &need_text(call.meter, set, "trim");
  if (characters) call.meter.step(text.size() * (1 + characters->size() / 8));
  return make_string(call.meter, std::string(strip(text, characters, true, true)));
}

Value length(const Call& call, const Value& value) {
  size_t n = 0;
  if (const std::string* text = value.text()) {
    call.meter.scan(text->size());
    n = count_characters(*text);
  } else if (value.items() || value.object()) {
    n = value.items() ? value.items()->size() : value.object()->fields.size();
  } else if (!value.is_undefined()) {
    call.meter.refuse("{} has no length", value.kind());
  }
  return integer(static_cast<int64_t>(n));
}

Value join(const Call& call, const Value& value) {
  const std::string separator = text_of(call.meter, call.arguments.at(0, "d", Value::string("")));
  const Value attribute = call.arguments.at(1, "attribute");
  std::string out;
  bool first = true;
  for (const Value& item : elements(call.meter, value, "join")) {
    if (!first) call.meter.grow(separator.size()), out += separator;
    first = false;
    append_text(call.meter, out,
                attribute.is_none() ? item : follow(call.meter, item, need_text(call.meter, attribute, "join")));
  }
  return Value::string(std::move(out));
}

Value to_upper(const Call& call, const Value& value) {
  return make_string(call.meter, upper(text_of(call.meter, value)));
}
Value to_lower(const Call& call, const Value& value) {
  return make_string(call.meter, lower(text_of(call.meter, value)));
}
Value to_text(const Call& call, const Value& value) {
  return value.text() ? value : make_string(call.meter, text_of(call.meter, value));
}

Value capitalize(const Call& call, const Value& value) {
  std::string text = lower(text_of(call.meter, value));
  if (!text.empty()) text[0] = upper(text.substr(0, 1))[0];
  return make_string(call.meter, std::move(text));
}

Value title(const Call& call, const Value& value) {
  std::string text = lower(text_of(call.meter, value));
  bool begins = true;
  for (char& c : text) {
    if (begins) c = upper({&c, 1})[0];
    begins = std::string_view(" -({[<\t\n\r\f\v").find(c) != std::string_view::npos;
  }
  return make_string(call.meter, std::move(text));
}

Value fallback(const Call& call, const Value& value) {
  const bool falsy_too = call.arguments.at(1, "boolean").truth();
  if (value.is_undefined() || (falsy_too && !value.truth()))
    return call.arguments.at(0, "default_value", Value::string(""));
  return value;
}

Value end_of(const Call& call, const Value& value, bool is_first) {
  const std::vector<Value> others = value.items() ? std::vector<Value>() : elements(call.meter, value, call.name);
  const std::vector<Value>& all = value.items() ? *value.items() : others;
  if (all.empty()) return Value::undefined("an item of nothing");
  return is_first ? all.front() : all.back();
}
Value first(const Call& call, const Value& value) { return end_of(call, value, true); }
Value last(const Call& call, const Value& value) { return end_of(call, value, false); }

Value list(const Call& call, const Value& value) {
  return value.items() ? value : make_array(call.meter, elements(call.meter, value, "list"));
}

Value reverse(const Call& call, const Value& value) {
  std::vector<Value> all = elements(call.meter, value, "reverse");
  std::reverse(all.begin(), all.end());
  if (!value.text()) return make_array(call.meter, std::move(all));
  std::string text;
  for (const Value& c : all) text += *c.text();
  return make_string(call.meter, std::move(text));
}

Value unique(const Call& call, const Value& value) {
  std::vector<Value> out;
  for (const Value& item : elements(call.meter, value, "unique"))
    if (std::none_of(out.begin(), out.end(), [&](const Value& seen) { return equal(call.meter, seen, item); }))
      out.push_back(item);
  return make_array(call.meter, std::move(out));
}

Value pair_of(Meter& meter, const std::pair<String, Value>& field) {
  return make_array(meter, {Value::Data(field.first), field.second});
}

Value items(const Call& call, const Value& value) {
  std::vector<Value> out;
  if (!value.is_undefined() && !value.object()) call.meter.refuse("items: expected a mapping, found {}", value.kind());
  if (value.object())
    for (const auto& field : value.object()->fields) out.push_back(pair_of(call.meter, field));
  return make_array(call.meter, std::move(out));
}

Value sorted_items(const Call& call, const Value& value) {
  if (!value.object()) call.meter.refuse("dictsort: expected a mapping, found {}", value.kind());
  std::vector<std::pair<std::string, const std::pair<String, Value>*>> keys;
  for (const auto& field : value.object()->fields) {
    call.meter.grow(field.first->size());
    keys.emplace_back(lower(*field.first), &field);
  }
  call.meter.step(16 * keys.size());
  std::stable_sort(keys.begin(), keys.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Value> out;
  for (const auto& key : keys) out.push_back(pair_of(call.meter, *key.second));
  return make_array(call.meter, std::move(out));
}

/// The bytes that a replacement makes are counted before it is made.
Value replace_text(const Call& call, const Value& value) {
  const std::string text = text_of(call.meter, value);
  const Value from = call.arguments.at(0, "old"), to = call.arguments.at(1, "new"),
              count = call.arguments.at(2, "count");
  const std::string& old = need_text(call.meter, from, "replace");
  const std::string& by = need_text(call.meter, to, "replace");
  call.meter.search(text.size(), old.size());
  call.meter.grow(text.size() + (text.size() / std::max<size_t>(old.size(), 1) + 1) * by.size());
  return Value::string(replace(text, old, by, count.is_none() ? -1 : need_integer(call.meter, count, "replace")));
}

template <class T>
Value number_or(const Call& call, const Value& value) {
  const Value otherwise = call.arguments.at(0, "default", Value::Data(T{0}));
  if (value.is_number() || value.get<bool>()) {
    if (std::is_same_v<T, int64_t> && value.get<double>() && !(std::abs(value.number()) < 9e18)) return otherwise;
    if (value.get<int64_t>() && std::is_same_v<T, int64_t>) return value;
    return Value::Data(static_cast<T>(value.number()));
  }
  if (!value.text()) return otherwise;
  std::string_view text = strip(*value.text(), nullptr, true, true);
  if (text.starts_with('+')) text.remove_prefix(1);
  double number = 0;
  T exact{};
  const char* end = text.data() + text.size();
  if (const auto r = std::from_chars(text.data(), end, exact); r.ec == std::errc() && r.ptr == end)
    return Value::Data(exact);
  const auto r = std::from_chars(text.data(), end, number);
  if (r.ec != std::errc() || r.ptr != end || !(std::abs(number) < 9e18)) return otherwise;
  return Value::Data(static_cast<T>(number));
}

Value absolute(const Call& call, const Value& value) {
  if (const double* d = value.get<double>()) return Value::Data(std::abs(*d));
  const int64_t i = need_integer(call.meter, value, "abs");
  if (i == INT64_MIN) call.meter.refuse("abs: the number is too large");
  return integer(std::abs(i));
}

Value indent(const Call& call, const Value& value) {
  const std::string text = text_of(call.meter, value);
  const int64_t width = need_integer(call.meter, call.arguments.at(0, "width", integer(4)), "indent");
  const bool first_too = call.arguments.at(1, "first").truth(), blank_too = call.arguments.at(2, "blank").truth();
  if (width < 0 || width > 64) call.meter.refuse("indent: expected a width of at most 64, found {}", width);
  std::string out;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const bool wanted = begin == 0 ? first_too : blank_too || end > begin;
    call.meter.grow(end - begin + 65);
    if (wanted) out.append(static_cast<size_t>(width), ' ');
    out.append(text, begin, end + 1 - begin);
    begin = end + 1;
  }
  return Value::string(std::move(out));
}

Value unchanged(const Call&, const Value& value) { return value; }

const std::array<Filter, 30>& filters() {
  static const std::array<Filter, 30> all = {{
      {"abs", {0, 0, {}}, absolute},
      {"capitalize", {0, 0, {}}, capitalize},
      {"count", {0, 0, {}}, length},
      {"d", {0, 2, {"default_value", "boolean"}}, fallback},
      {"default", {0, 2, {"default_value", "boolean"}}, fallback},
      {"dictsort", {0, 0, {}}, sorted_items},
      {"first", {0, 0, {}}, first},
      {"float", {0, 1, {"default"}}, number_or<double>},
      {"indent", {0, 3, {"width", "first", "blank"}}, indent},
      {"int", {0, 1, {"default"}}, number_or<int64_t>},
      {"items", {0, 0, {}}, items},
      {"join", {0, 2, {"d", "attribute"}}, join},
      {"last", {0, 0, {}}, last},
      {"length", {0, 0, {}}, length},
      {"list", {0, 0, {}}, list},
      {"lower", {0, 0, {}}, to_lower},
      {"map", {1, 4, {"attribute", "default"}}, map},
      {"reject", {0, 3, {}}, reject},
      {"rejectattr", {1, 4, {}}, reject_attribute},
      {"replace", {2, 3, {"old", "new", "count"}}, replace_text},
      {"reverse", {0, 0, {}}, reverse},
      {"safe", {0, 0, {}}, unchanged},
      {"select", {0, 3, {}}, select},
      {"selectattr", {1, 4, {}}, select_attribute},
      {"string", {0, 0, {}}, to_text},
      {"title", {0, 0, {}}, title},
      {"tojson", {0, 4, {"ensure_ascii", "indent", "separators", "sort_keys"}}, to_json},
      {"trim", {0, 1, {"chars"}}, trim},
      {"unique", {0, 0, {}}, unique},
      {"upper", {0, 0, {}}, to_upper},
  }};
  return all;
}

}  // namespace

const Filter* find_filter(std::string_view name) {
  const auto it = std::find_if(filters().begin(), filters().end(), [&](const Filter& f) { return f.name == name; });
  return it == filters().end() ? nullptr : &*it;
}

}  // namespace sluice::jinja
