// The filters, tests, methods and functions that chat templates may use; everything else is refused.
//
// filters    abs capitalize count d default dictsort first float indent int items join last length list lower map
// reject
//            rejectattr replace reverse safe select selectattr string title tojson trim unique upper
// tests      boolean defined divisibleby eq equalto even false float ge gt in integer iterable le lower lt mapping ne
// none
//            number odd sequence string true undefined upper, and == != < > <= >= where a test is named by a string
// methods    of strings: capitalize count endswith find lower lstrip replace rsplit rstrip split splitlines startswith
// strip
//            title upper; of mappings: get items keys values; of `loop`: cycle
// functions  dict namespace raise_exception range strftime_now
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chat/jinja_value.h"

namespace sluice::jinja {

/// Arguments of a call, evaluated.
struct Arguments {
  std::vector<Value> values;
  std::vector<std::pair<std::string, Value>> named;

  /// The argument at `index` or of this name; `fallback` where there is neither.
  Value at(size_t index, std::string_view name, Value fallback = {}) const;
};

/// What a filter, test, method or function is given beside its arguments.
struct Call {
  Meter& meter;
  std::string_view name;  // of the filter ..., for messages
  Arguments& arguments;
};

/// In place of names: any may be used.
constexpr std::string_view kAnyName = "*";

/// How many arguments, and which of them may be given by name.
struct Signature {
  size_t least, most;
  std::vector<std::string_view> names;
};

struct Filter {
  std::string_view name;
  Signature signature;
  Value (*apply)(const Call& call, const Value& value);
};
struct Test {
  std::string_view name;
  Signature signature;
  bool (*apply)(const Call& call, const Value& value);
};
struct Method {
  std::string_view name;
  Signature signature;
  Value (*apply)(const Call& call, const Value& value);
};
struct Function {
  std::string_view name;
  Signature signature;
  Value (*apply)(const Call& call);
};

/// Null where there is none of this name.
const Filter* find_filter(std::string_view name);
const Test* find_test(std::string_view name);
const Method* find_method(std::string_view name);
const Function* find_function(std::string_view name);

/// What `for` goes through: items of a list, keys of a mapping, characters of a string, nothing for an undefined value.
/// Throws Error for anything else; `what` names who asks.
std::vector<Value> elements(Meter& meter, const Value& value, std::string_view what);
/// The text of a string. Throws Error "<what>: expected a string, found ...".
const std::string& need_text(const Meter& meter, const Value& value, std::string_view what);
int64_t need_integer(const Meter& meter, const Value& value, std::string_view what);
/// An attribute or item of `value` by a key that is text; undefined where there is none. Error for undefined values.
Value field_of(Meter& meter, const Value& value, std::string_view key);
/// value[index] for a list, a mapping or a string.
Value item_of(Meter& meter, const Value& value, const Value& index);
/// Whether `container` has `value`: the operator `in`.
bool contains(Meter& meter, const Value& container, const Value& value);

}  // namespace sluice::jinja
