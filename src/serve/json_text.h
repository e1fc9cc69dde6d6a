// JSON that is written: responses and events of a stream.
#pragma once
#include <string>

#include "formats/json.h"

namespace sluice {

inline constexpr const char* kJsonType = "application/json";
inline constexpr const char* kEventStreamType = "text/event-stream; charset=utf-8";

/// One line; bytes that are not UTF-8 become U+FFFD.
inline std::string json_text(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

inline constexpr const char* kDoneEvent = "data: [DONE]\n\n";

}  // namespace sluice
