// Values of a chat template. Strings, lists and mappings never change once made, and are shared.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "chat/jinja_limits.h"
#include "formats/json.h"

namespace sluice::jinja {

class Value;
struct Array;
struct Object;
struct Namespace;
struct Loop;
using String = std::shared_ptr<const std::string>;

struct Undefined {
  String what;  // the name that has no value
};

/// One of Python's values, as far as templates need them. Text is UTF-8; lengths and positions count characters.
class Value {
 public:
  using Data = std::variant<Undefined, std::nullptr_t, bool, int64_t, double, String, std::shared_ptr<const Array>,
                            std::shared_ptr<const Object>, std::shared_ptr<Namespace>, std::shared_ptr<Loop>>;

  Value() : data_(nullptr) {}
  Value(Data data) : data_(std::move(data)) {}
  static Value string(std::string text) { return Data(std::make_shared<const std::string>(std::move(text))); }
  static Value undefined(std::string_view what) { return Data(Undefined{std::make_shared<const std::string>(what)}); }

  template <class T>
  const T* get() const {
    return std::get_if<T>(&data_);
  }
  bool is_undefined() const { return get<Undefined>(); }
  bool is_none() const { return get<std::nullptr_t>(); }
  /// A bool is not a number here.
  bool is_number() const { return get<int64_t>() || get<double>(); }
  /// The text of a string, else null.
  const std::string* text() const;
  /// The items of a list, else null.
  const std::vector<Value>* items() const;
  /// The fields of a mapping, else null.
  const Object* object() const;

  /// The kind as messages name it: "a string".
  std::string_view kind() const;
  /// What `if` sees.
  bool truth() const;
  /// A bool counts as 0 or 1, as in Python. Meaningless for other kinds.
  double number() const;

 private:
  Data data_;
};

struct Array {
  std::vector<Value> items;
  int depth;
};

struct Object {
  std::vector<std::pair<String, Value>> fields;
  int depth;
  /// Null where there is none.
  const Value* find(std::string_view key) const;
};

/// The one kind of value that changes: its attributes are set. It cannot be part of another value.
struct Namespace {
  std::vector<std::pair<std::string, Value>> fields;
  Value* find(std::string_view key);
};

/// The variable `loop`.
struct Loop {
  std::shared_ptr<const Array> all;
  size_t index0 = 0;
};

using Fields = std::vector<std::pair<String, Value>>;

/// Sets a field, which replaces one of the same name.
void set_field(Meter& meter, Fields& fields, String key, Value value);

/// A list or mapping of these. Throws Error when it gets too deep or holds a namespace or a loop.
Value make_array(Meter& meter, std::vector<Value> items);
Value make_object(Meter& meter, Fields fields);
/// A string, its bytes counted.
Value make_string(Meter& meter, std::string text);
/// A value of JSON, nested at most 64 deep.
Value from_json(Meter& meter, const OrderedJson& json);

bool equal(Meter& meter, const Value& a, const Value& b);
/// a < b for two numbers or two strings; Error for anything else.
bool less(Meter& meter, const Value& a, const Value& b);

/// Appends what {{ }} prints: text as it is, None, True, lists and mappings as Python writes them.
void append_text(Meter& meter, std::string& out, const Value& value);

struct JsonStyle {
  int indent = -1;  // -1: on one line
  std::string item_separator = ", ", key_separator = ": ";
  bool ascii = false, sorted = false;
};
/// Appends `value` as Python's json.dumps writes it. Throws Error for a value that JSON does not have.
void append_json_text(Meter& meter, std::string& out, const Value& value, const JsonStyle& style);

}  // namespace sluice::jinja
