// Renders small templates.
#pragma once
#include <string>
#include <string_view>

#include "base/error.h"
#include "chat/jinja.h"

namespace sluice {

inline std::string rendered(std::string_view source, const OrderedJson& context = OrderedJson::object()) {
  return ChatTemplate(source, "t").render(context);
}

/// The message of the Error, "" where there is none.
inline std::string refused(std::string_view source, const OrderedJson& context = OrderedJson::object()) {
  try {
    rendered(source, context);
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

/// The message of the Error that reading the template throws, "" where there is none.
inline std::string unreadable(std::string_view source) {
  try {
    ChatTemplate(source, "t");
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

}  // namespace sluice
