#include "chat/jinja_operators.h"

#include <algorithm>
#include <cmath>

#include "chat/jinja_builtins.h"
#include "chat/jinja_text.h"

namespace sluice::jinja {
namespace {

Value truth_value(bool value) { return Value::Data(value); }

Value integer_result(Meter& meter, std::string_view name, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (name == "+") overflow = __builtin_add_overflow(a, b, &result);
  if (name == "-") overflow = __builtin_sub_overflow(a, b, &result);
  if (name == "*") overflow = __builtin_mul_overflow(a, b, &result);
  if (name == "//" || name == "%") {
    if (b == 0) meter.refuse("division by zero");
    overflow = a == INT64_MIN && b == -1;
    if (!overflow) {  // Python rounds down, the remainder has the divisor's sign
      const bool down = a % b != 0 && (a % b < 0) != (b < 0);
      result = name == "%" ? a % b + (down ? b : 0) : a / b - down;
    }
  }
  if (overflow) meter.refuse("the result of {} is too large", name);
  return Value::Data(result);
}

Value real_result(Meter& meter, std::string_view name, double a, double b) {
  if (name == "+") return Value::Data(a + b);
  if (name == "-") return Value::Data(a - b);
  if (name == "*") return Value::Data(a * b);
  if (b == 0) meter.refuse("division by zero");
  if (name == "/") return Value::Data(a / b);
  if (name == "//") return Value::Data(std::floor(a / b));
  return Value::Data(a - b * std::floor(a / b));
}

/// A string or list so many times.
Value repeated(Meter& meter, const Value& value, int64_t times) {
  const auto n = static_cast<size_t>(std::clamp<int64_t>(times, 0, int64_t{kMaxMemory}));
  std::string text;
  std::vector<Value> items;
  for (size_t i = 0; i < n; ++i) {
    meter.step();
    if (value.text()) {
      meter.grow(value.text()->size());
      text += *value.text();
    } else {
      meter.grow(value.items()->size() * sizeof(Value));
      items.insert(items.end(), value.items()->begin(), value.items()->end());
    }
  }
  return value.text() ? Value::string(std::move(text)) : make_array(meter, std::move(items));
}

Value arithmetic(Meter& meter, std::string_view name, const Value& a, const Value& b) {
  for (const Value* v : {&a, &b})
    if (const auto* undefined = v->get<Undefined>()) meter.refuse("{} is undefined", *undefined->what);
  if (name == "+" && a.text() && b.text()) {
    meter.grow(a.text()->size() + b.text()->size());
    return Value::string(*a.text() + *b.text());
  }
  if (name == "+" && a.items() && b.items()) {
    std::vector<Value> all = *a.items();
    all.insert(all.end(), b.items()->begin(), b.items()->end());
    return make_array(meter, std::move(all));
  }
  if (name == "*" && (a.text() || a.items()) && b.get<int64_t>()) return repeated(meter, a, *b.get<int64_t>());
  if (name == "*" && (b.text() || b.items()) && a.get<int64_t>()) return repeated(meter, b, *a.get<int64_t>());
  const auto is_numeric = [](const Value& v) { return v.is_number() || v.get<bool>(); };
  if (!is_numeric(a) || !is_numeric(b)) meter.refuse("{} {} {} is not supported", a.kind(), name, b.kind());
  const auto whole = [](const Value& v) { return v.get<int64_t>() ? *v.get<int64_t>() : int64_t{*v.get<bool>()}; };
  if (name != "/" && !a.get<double>() && !b.get<double>()) return integer_result(meter, name, whole(a), whole(b));
  return real_result(meter, name, a.number(), b.number());
}

}  // namespace

Value apply_binary(Meter& meter, std::string_view name, const Value& left, const Value& right) {
  if (name == "==") return truth_value(equal(meter, left, right));
  if (name == "!=") return truth_value(!equal(meter, left, right));
  if (name == "<") return truth_value(less(meter, left, right));
  if (name == ">") return truth_value(less(meter, right, left));
  if (name == "<=") return truth_value(!less(meter, right, left));
  if (name == ">=") return truth_value(!less(meter, left, right));
  if (name == "in") return truth_value(contains(meter, right, left));
  if (name != "~") return arithmetic(meter, name, left, right);
  std::string text;
  append_text(meter, text, left);
  append_text(meter, text, right);
  return Value::string(std::move(text));
}

Value apply_minus(Meter& meter, const Value& value) {
  if (const double* d = value.get<double>()) return Value::Data(-*d);
  return integer_result(meter, "-", 0, need_integer(meter, value, "-"));
}

Value apply_slice(Meter& meter, const Value& value, const std::array<Value, 3>& parts) {
  if (!value.text() && !value.items()) meter.refuse("a slice of {} is not supported", value.kind());
  const int64_t step = parts[2].is_none() ? 1 : need_integer(meter, parts[2], "slice");
  if (step == 0) meter.refuse("slice: expected a step other than 0");
  const std::string_view whole = value.text() ? *value.text() : std::string_view();
  meter.scan(3 * whole.size());
  const auto size = static_cast<int64_t>(value.text() ? count_characters(whole) : value.items()->size());
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? size : size - 1;
  const auto bound = [&](const Value& part, int64_t otherwise) {
    if (part.is_none()) return otherwise;
    const int64_t i = need_integer(meter, part, "slice");
    return std::clamp(i < 0 ? i + size : i, low, high);
  };
  const int64_t begin = bound(parts[0], step > 0 ? low : high), end = bound(parts[1], step > 0 ? high : low);
  if (value.text() && step == 1) {
    const size_t from = character_offset(whole, static_cast<size_t>(begin));
    const size_t to = character_offset(whole, static_cast<size_t>(std::max(begin, end)));
    return make_string(meter, std::string(whole.substr(from, to - from)));
  }
  const std::vector<Value> split = value.text() ? elements(meter, value, "slice") : std::vector<Value>();
  const std::vector<Value>& all = value.text() ? split : *value.items();
  std::vector<Value> out;
  std::string text;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    meter.step();
    const Value& item = all[static_cast<size_t>(i)];
    if (value.text()) {
      text += *item.text();
    } else {
      out.push_back(item);
    }
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return value.text() ? make_string(meter, std::move(text)) : make_array(meter, std::move(out));
}

}  // namespace sluice::jinja
