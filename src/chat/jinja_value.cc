#include "chat/jinja_value.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sluice::jinja {
namespace {

int depth_of(const Value& value) {
  if (const auto* array = value.get<std::shared_ptr<const Array>>()) return (*array)->depth;
  if (const Object* object = value.object()) return object->depth;
  return 0;
}

/// The depth of what contains `value`, and `depth` at least.
int deeper(Meter& meter, int depth, const Value& value) {
  if (value.get<std::shared_ptr<Namespace>>() || value.get<std::shared_ptr<Loop>>())
    meter.refuse("{} cannot be part of another value", value.kind());
  depth = std::max(depth, depth_of(value) + 1);
  if (depth > kMaxValueDepth) meter.refuse("a value is nested deeper than {}", kMaxValueDepth);
  return depth;
}

std::string real_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

/// A string as Python's repr() writes it.
void append_quoted(std::string& out, std::string_view text) {
  const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  out += quote;
  for (const char c : text) {
    if (c == quote || c == '\\') {
      out.append({'\\', c});
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  out += quote;
}

/// A value inside of a list, as Python's repr() writes it.
void append_repr(Meter& meter, std::string& out, const Value& value) {
  meter.step();
  if (const std::string* text = value.text()) {
    meter.grow(text->size());
    append_quoted(out, *text);
  } else if (const auto* items = value.items()) {
    out += '[';
    for (const Value& item : *items) {
      if (&item != items->data()) out += ", ";
      append_repr(meter, out, item);
    }
    out += ']';
  } else if (const Object* object = value.object()) {
    out += '{';
    for (const auto& [key, field] : object->fields) {
      if (&key != &object->fields.front().first) out += ", ";
      meter.grow(key->size());
      append_quoted(out, *key);
      out += ": ";
      append_repr(meter, out, field);
    }
    out += '}';
  } else {
    append_text(meter, out, value.is_undefined() ? Value::string("Undefined") : value);
  }
}

struct JsonWriter {
  Meter& meter;
  std::string& out;
  const JsonStyle& style;

  void line(int depth) {
    if (style.indent < 0) return;
    meter.grow(static_cast<size_t>(style.indent) * static_cast<size_t>(depth) + 1);
    out.append("\n").append(static_cast<size_t>(style.indent) * static_cast<size_t>(depth), ' ');
  }

  void write_string(const std::string& text) {
    meter.grow(text.size() + 2);
    out += OrderedJson(text).dump(-1, ' ', style.ascii, OrderedJson::error_handler_t::replace);
  }

  template <class Items, class Write>
  void write_items(const Items& items, std::string_view ends, int depth, Write&& write) {
    out += ends[0];
    bool first = true;
    for (const auto& item : items) {
      if (!first) out += style.item_separator;
      first = false;
      line(depth + 1);
      write(item);
    }
    if (!items.empty()) line(depth);
    out += ends[1];
  }

  void write(const Value& value, int depth) {
    meter.grow(8);
    if (const std::string* text = value.text()) {
      write_string(*text);
    } else if (const auto* items = value.items()) {
      write_items(*items, "[]", depth, [&](const Value& item) { write(item, depth + 1); });
    } else if (const Object* object = value.object()) {
      Fields fields = object->fields;
      meter.step(fields.size());
      if (style.sorted)
        std::stable_sort(fields.begin(), fields.end(),
                         [](const auto& a, const auto& b) { return *a.first < *b.first; });
      write_items(fields, "{}", depth, [&](const auto& field) {
        write_string(*field.first);
        out += style.key_separator;
        write(field.second, depth + 1);
      });
    } else if (value.is_none()) {
      out += "null";
    } else if (const bool* b = value.get<bool>()) {
      out += *b ? "true" : "false";
    } else if (value.is_number()) {
      append_text(meter, out, value);
    } else {
      meter.refuse("tojson: {} has no JSON", value.kind());
    }
  }
};

}  // namespace

const std::string* Value::text() const {
  const String* s = get<String>();
  return s ? s->get() : nullptr;
}

const std::vector<Value>* Value::items() const {
  const auto* array = get<std::shared_ptr<const Array>>();
  return array ? &(*array)->items : nullptr;
}

const Object* Value::object() const {
  const auto* object = get<std::shared_ptr<const Object>>();
  return object ? object->get() : nullptr;
}

std::string_view Value::kind() const {
  static constexpr std::string_view kNames[] = {"an undefined value", "none",   "a bool",    "an integer",  "a float",
                                                "a string",           "a list", "a mapping", "a namespace", "a loop"};
  static_assert(std::size(kNames) == std::variant_size_v<Data>);
  return kNames[data_.index()];
}

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (const bool* b = get<bool>()) return *b;
  if (is_number()) return number() != 0;
  if (const std::string* s = text()) return !s->empty();
  if (const auto* list = items()) return !list->empty();
  if (const Object* o = object()) return !o->fields.empty();
  return true;
}

double Value::number() const {
  if (const bool* b = get<bool>()) return *b;
  if (const int64_t* i = get<int64_t>()) return static_cast<double>(*i);
  const double* d = get<double>();
  return d ? *d : 0;
}

const Value* Object::find(std::string_view key) const {
  const auto it = std::find_if(fields.begin(), fields.end(), [&](const auto& field) { return *field.first == key; });
  return it == fields.end() ? nullptr : &it->second;
}

Value* Namespace::find(std::string_view key) {
  const auto it = std::find_if(fields.begin(), fields.end(), [&](const auto& field) { return field.first == key; });
  return it == fields.end() ? nullptr : &it->second;
}

void set_field(Meter& meter, Fields& fields, String key, Value value) {
  meter.step(fields.size() / 4);
  const auto it = std::find_if(fields.begin(), fields.end(), [&](const auto& field) { return *field.first == *key; });
  if (it == fields.end()) {
    fields.emplace_back(std::move(key), std::move(value));
  } else {
    it->second = std::move(value);
  }
}

Value make_array(Meter& meter, std::vector<Value> items) {
  meter.grow(items.size() * sizeof(Value));
  int depth = 1;
  for (const Value& item : items) depth = deeper(meter, depth, item);
  return Value::Data(std::make_shared<const Array>(Array{std::move(items), depth}));
}

Value make_object(Meter& meter, Fields fields) {
  meter.grow(fields.size() * sizeof(Fields::value_type));
  int depth = 1;
  for (const auto& field : fields) depth = deeper(meter, depth, field.second);
  return Value::Data(std::make_shared<const Object>(Object{std::move(fields), depth}));
}

Value make_string(Meter& meter, std::string text) {
  meter.grow(text.size());
  return Value::string(std::move(text));
}

Value from_json(Meter& meter, const OrderedJson& json) {
  if (json.is_string()) return make_string(meter, json.get<std::string>());
  if (json.is_boolean()) return Value::Data(json.get<bool>());
  if (json.is_number_unsigned() && json.get<uint64_t>() > uint64_t{INT64_MAX}) return Value::Data(json.get<double>());
  if (json.is_number_integer()) return Value::Data(json.get<int64_t>());
  if (json.is_number()) return Value::Data(json.get<double>());
  if (json.is_array()) {
    std::vector<Value> items;
    for (const OrderedJson& item : json) items.push_back(from_json(meter, item));
    return make_array(meter, std::move(items));
  }
  if (json.is_object()) {
    Fields fields;
    for (const auto& [key, value] : json.items()) {
      meter.grow(key.size());
      fields.emplace_back(std::make_shared<const std::string>(key), from_json(meter, value));
    }
    return make_object(meter, std::move(fields));
  }
  return {};
}

bool equal(Meter& meter, const Value& a, const Value& b) {
  meter.step();
  const auto is_numeric = [](const Value& v) { return v.is_number() || v.get<bool>(); };
  if (a.get<int64_t>() && b.get<int64_t>()) return *a.get<int64_t>() == *b.get<int64_t>();
  if (is_numeric(a) && is_numeric(b)) return a.number() == b.number();
  if (a.text() && b.text()) {
    meter.scan(std::min(a.text()->size(), b.text()->size()));
    return *a.text() == *b.text();
  }
  if (a.items() && b.items())
    return std::equal(a.items()->begin(), a.items()->end(), b.items()->begin(), b.items()->end(),
                      [&](const Value& x, const Value& y) { return equal(meter, x, y); });
  if (a.object() && b.object()) {
    const Fields &x = a.object()->fields, &y = b.object()->fields;
    return x.size() == y.size() && std::all_of(x.begin(), x.end(), [&](const auto& field) {
             meter.step(y.size());
             const Value* other = b.object()->find(*field.first);
             return other && equal(meter, field.second, *other);
           });
  }
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

bool less(Meter& meter, const Value& a, const Value& b) {
  if (a.text() && b.text()) {
    meter.scan(std::min(a.text()->size(), b.text()->size()));
    return *a.text() < *b.text();
  }
  if (a.get<int64_t>() && b.get<int64_t>()) return *a.get<int64_t>() < *b.get<int64_t>();
  if (!a.is_number() || !b.is_number()) meter.refuse("{} and {} have no order", a.kind(), b.kind());
  return a.number() < b.number();
}

void append_text(Meter& meter, std::string& out, const Value& value) {
  if (const std::string* text = value.text()) {
    meter.grow(text->size());
    out += *text;
  } else if (value.items() || value.object()) {
    append_repr(meter, out, value);
  } else if (value.is_none()) {
    out += "None";
  } else if (const bool* b = value.get<bool>()) {
    out += *b ? "True" : "False";
  } else if (const int64_t* i = value.get<int64_t>()) {
    fmt::format_to(std::back_inserter(out), "{}", *i);
  } else if (const double* d = value.get<double>()) {
    out += real_text(*d);
  } else if (!value.is_undefined()) {
    meter.refuse("{} cannot be printed", value.kind());
  }
}

void append_json_text(Meter& meter, std::string& out, const Value& value, const JsonStyle& style) {
  JsonWriter{meter, out, style}.write(value, 0);
}

}  // namespace sluice::jinja
