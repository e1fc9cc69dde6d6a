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

/// One event of a stream.
inline std::string json_event(const OrderedJson& value) { return "data: " + json_text(value) + "\n\n"; }

/// The events of a stream, which differ in one member: what is around it is written once.
class EventFrame {
 public:
  /// `event`: an event that has null for `member`.
  EventFrame(OrderedJson event, const char* member) {
    event[member] = nullptr;
    const std::string whole = json_event(event), name = json_text(member) + ":";
    const size_t value = whole.find(name + "null") + name.size();  // no text holds it: its quotes would be escaped
    before_ = whole.substr(0, value);
    after_ = whole.substr(value + 4);
  }

  std::string event(const OrderedJson& value) const { return before_ + json_text(value) + after_; }

 private:
  std::string before_, after_;
};

inline constexpr const char* kDoneEvent = "data: [DONE]\n\n";

}  // namespace sluice
