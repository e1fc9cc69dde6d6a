// How values are looked into.
#include <algorithm>
#include <optional>

#include "chat/jinja_builtins.h"
#include "chat/jinja_text.h"

namespace sluice::jinja {
namespace {

[[noreturn]] void refuse_undefined(const Meter& meter, const Undefined& undefined) {
  meter.refuse("{} is undefined", *undefined.what);
}

Value loop_field(Meter& meter, const Loop& loop, std::string_view key) {
  const std::vector<Value>& all = loop.all->items;
  const size_t i = loop.index0, n = all.size();
  const auto number = [](size_t value) { return Value(Value::Data(static_cast<int64_t>(value))); };
  if (key == "index") return number(i + 1);
  if (key == "index0") return number(i);
  if (key == "revindex") return number(n - i);
  if (key == "revindex0") return number(n - i - 1);
  if (key == "length") return number(n);
  if (key == "first") return Value::Data(i == 0);
  if (key == "last") return Value::Data(i + 1 == n);
  if (key == "previtem") return i > 0 ? all[i - 1] : Value::undefined("loop.previtem");
  if (key == "nextitem") return i + 1 < n ? all[i + 1] : Value::undefined("loop.nextitem");
  meter.refuse("loop.{} is not supported", key);
}

}  // namespace

Value Arguments::at(size_t index, std::string_view name, Value fallback) const {
  if (index < values.size()) return values[index];
  for (const auto& [key, value] : named)
    if (key == name) return value;
  return fallback;
}

std::vector<Value> elements(Meter& meter, const Value& value, std::string_view what) {
  if (const auto* items = value.items()) {
    meter.grow(items->size() * sizeof(Value));
    return *items;
  }
  std::vector<Value> out;
  if (const Object* object = value.object()) {
    meter.grow(object->fields.size() * sizeof(Value));
    for (const auto& field : object->fields) out.push_back(Value::Data(field.first));
  } else if (const std::string* text = value.text()) {
    meter.grow(text->size() * 2 * sizeof(Value));
    for (const std::string_view c : characters(*text)) out.push_back(Value::string(std::string(c)));
  } else if (!value.is_undefined()) {
    meter.refuse("{}: expected a list, a mapping or a string, found {}", what, value.kind());
  }
  return out;
}

const std::string& need_text(const Meter& meter, const Value& value, std::string_view what) {
  if (const auto* undefined = value.get<Undefined>()) refuse_undefined(meter, *undefined);
  if (!value.text()) meter.refuse("{}: expected a string, found {}", what, value.kind());
  return *value.text();
}

int64_t need_integer(const Meter& meter, const Value& value, std::string_view what) {
  if (const auto* undefined = value.get<Undefined>()) refuse_undefined(meter, *undefined);
  const int64_t* i = value.get<int64_t>();
  if (!i) meter.refuse("{}: expected an integer, found {}", what, value.kind());
  return *i;
}

Value field_of(Meter& meter, const Value& value, std::string_view key) {
  if (const auto* undefined = value.get<Undefined>()) refuse_undefined(meter, *undefined);
  if (const auto* loop = value.get<std::shared_ptr<Loop>>()) return loop_field(meter, **loop, key);
  const Value* found = nullptr;
  if (const Object* object = value.object()) {
    meter.step(object->fields.size() / 4);
    found = object->find(key);
  } else if (const auto* space = value.get<std::shared_ptr<Namespace>>()) {
    meter.step((*space)->fields.size() / 4);
    found = (*space)->find(key);
  }
  return found ? *found : Value::undefined(key);
}

Value item_of(Meter& meter, const Value& value, const Value& index) {
  if (const std::string* key = index.text()) return field_of(meter, value, *key);
  if (const auto* undefined = value.get<Undefined>()) refuse_undefined(meter, *undefined);
  const int64_t* position = index.get<int64_t>();
  const auto at = [&](size_t size) -> std::optional<size_t> {
    const auto n = static_cast<int64_t>(size);
    const int64_t i = *position < 0 ? *position + n : *position;
    return i >= 0 && i < n ? std::optional<size_t>(static_cast<size_t>(i)) : std::nullopt;
  };
  if (position && value.items()) {
    if (const auto i = at(value.items()->size())) return (*value.items())[*i];
  } else if (position && value.text()) {
    const std::string_view text = *value.text();
    meter.scan(2 * text.size());
    if (const auto i = at(count_characters(text))) {
      const std::string_view rest = text.substr(character_offset(text, *i));
      return Value::string(std::string(rest.substr(0, character_size(rest))));
    }
  }
  std::string name;
  append_text(meter, name, index);
  return Value::undefined(name.substr(0, 40));
}

bool contains(Meter& meter, const Value& container, const Value& value) {
  if (const std::string* text = container.text()) {
    const std::string& part = need_text(meter, value, "in");
    meter.search(text->size(), part.size());
    return text->find(part) != std::string::npos;
  }
  if (const auto* items = container.items())
    return std::any_of(items->begin(), items->end(), [&](const Value& item) { return equal(meter, item, value); });
  if (const Object* object = container.object()) {
    meter.step(object->fields.size() / 4);
    return value.text() && object->find(*value.text());
  }
  if (!container.is_undefined()) meter.refuse("in: expected a list, a mapping or a string, found {}", container.kind());
  return false;
}

}  // namespace sluice::jinja
