#include <algorithm>
#include <array>

#include "chat/jinja_builtins.h"
#include "chat/jinja_text.h"

namespace sluice::jinja {
namespace {

bool is_defined(const Call&, const Value& v) { return !v.is_undefined(); }
bool is_undefined(const Call&, const Value& v) { return v.is_undefined(); }
bool is_none(const Call&, const Value& v) { return v.is_none(); }
bool is_string(const Call&, const Value& v) { return v.text(); }
bool is_mapping(const Call&, const Value& v) { return v.object(); }
bool is_iterable(const Call&, const Value& v) { return v.text() || v.items() || v.object() || v.is_undefined(); }
bool is_number(const Call&, const Value& v) { return v.is_number() || v.get<bool>(); }
bool is_integer(const Call&, const Value& v) { return v.get<int64_t>(); }
bool is_float(const Call&, const Value& v) { return v.get<double>(); }
bool is_boolean(const Call&, const Value& v) { return v.get<bool>(); }
bool is_true(const Call&, const Value& v) { return v.get<bool>() && *v.get<bool>(); }
bool is_false(const Call&, const Value& v) { return v.get<bool>() && !*v.get<bool>(); }
bool is_upper(const Call& c, const Value& v) {
  const std::string& text = need_text(c.meter, v, "upper");
  return upper(text) == text && lower(text) != text;
}
bool is_lower(const Call& c, const Value& v) {
  const std::string& text = need_text(c.meter, v, "lower");
  return lower(text) == text && upper(text) != text;
}
bool is_odd(const Call& c, const Value& v) { return need_integer(c.meter, v, "odd") % 2 != 0; }
bool is_even(const Call& c, const Value& v) { return need_integer(c.meter, v, "even") % 2 == 0; }
bool is_divisible(const Call& c, const Value& v) {
  const int64_t by = need_integer(c.meter, c.arguments.at(0, "num"), "divisibleby");
  if (by == 0) c.meter.refuse("divisibleby: expected a number other than 0");
  return by == -1 || need_integer(c.meter, v, "divisibleby") % by == 0;
}
bool is_equal(const Call& c, const Value& v) { return equal(c.meter, v, c.arguments.at(0, "other")); }
bool is_unequal(const Call& c, const Value& v) { return !is_equal(c, v); }
bool is_less(const Call& c, const Value& v) { return less(c.meter, v, c.arguments.at(0, "other")); }
bool is_greater(const Call& c, const Value& v) { return less(c.meter, c.arguments.at(0, "other"), v); }
bool is_at_most(const Call& c, const Value& v) { return !is_greater(c, v); }
bool is_at_least(const Call& c, const Value& v) { return !is_less(c, v); }
bool is_in(const Call& c, const Value& v) { return contains(c.meter, c.arguments.at(0, "seq"), v); }

const std::vector<Test>& tests() {
  static const Signature kNothing{0, 0, {}}, kOne{1, 1, {}};
  static const std::vector<Test> all = {
      {"!=", kOne, is_unequal},
      {"<", kOne, is_less},
      {"<=", kOne, is_at_most},
      {"==", kOne, is_equal},
      {">", kOne, is_greater},
      {">=", kOne, is_at_least},
      {"boolean", kNothing, is_boolean},
      {"defined", kNothing, is_defined},
      {"divisibleby", kOne, is_divisible},
      {"eq", kOne, is_equal},
      {"equalto", kOne, is_equal},
      {"even", kNothing, is_even},
      {"false", kNothing, is_false},
      {"float", kNothing, is_float},
      {"ge", kOne, is_at_least},
      {"gt", kOne, is_greater},
      {"in", kOne, is_in},
      {"integer", kNothing, is_integer},
      {"iterable", kNothing, is_iterable},
      {"le", kOne, is_at_most},
      {"lower", kNothing, is_lower},
      {"lt", kOne, is_less},
      {"mapping", kNothing, is_mapping},
      {"ne", kOne, is_unequal},
      {"none", kNothing, is_none},
      {"number", kNothing, is_number},
      {"odd", kNothing, is_odd},
      {"sequence", kNothing, is_iterable},
      {"string", kNothing, is_string},
      {"true", kNothing, is_true},
      {"undefined", kNothing, is_undefined},
      {"upper", kNothing, is_upper},
  };
  return all;
}

}  // namespace

const Test* find_test(std::string_view name) {
  const auto it = std::find_if(tests().begin(), tests().end(), [&](const Test& t) { return t.name == name; });
  return it == tests().end() ? nullptr : &*it;
}

}  // namespace sluice::jinja
