// The operators of chat templates.
#pragma once
#include <array>
#include <string_view>

#include "chat/jinja_value.h"

namespace sluice::jinja {

/// left `name` right for one of == != < > <= >= in + - * / // % ~. Throws Error for kinds that do not go together.
Value apply_binary(Meter& meter, std::string_view name, const Value& left, const Value& right);
/// -value.
Value apply_minus(Meter& meter, const Value& value);
/// value[begin:end:step] for a list or a string; none for a part that is left out.
Value apply_slice(Meter& meter, const Value& value, const std::array<Value, 3>& parts);

}  // namespace sluice::jinja
