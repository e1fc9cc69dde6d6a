// JSON lines: records of training data in, metrics and --json output out.
#pragma once
#include <fmt/format.h>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <optional>
#include <ranges>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct ChatMessage {
  std::string role;     // "system", "user", "assistant", ...: not checked here
  std::string content;  // "" where the record has null
  bool operator==(const ChatMessage&) const = default;
};

/// One line of a JSONL file: plain text, or a conversation.
struct JsonRecord {
  std::optional<std::string> text;
  std::vector<ChatMessage> messages;
};

/// Reads {"text": string} or {"messages": [{"role", "content"}, ...]}; other keys are ignored. Throws Error
/// "file:line: field: ..." for anything else, also for a record with neither or both and for an empty list of messages.
JsonRecord parse_json_record(std::string_view line, const std::string& file, int64_t line_number);

/// Appends `text` as a JSON string with its quotes. Bytes that are not UTF-8 become U+FFFD.
void append_json(std::string& out, std::string_view text);
inline void append_json(std::string& out, const std::string& text) { append_json(out, std::string_view(text)); }
inline void append_json(std::string& out, const char* text) { append_json(out, std::string_view(text)); }
inline void append_json(std::string& out, std::same_as<bool> auto value) { out += value ? "true" : "false"; }
template <std::integral T>
requires(!std::same_as<T, bool> && !std::same_as<T, char>) void append_json(std::string& out, T value) {
  fmt::format_to(std::back_inserter(out), "{}", value);
}
/// The shortest decimal that reads back as the same float or double; NaN and infinities, which JSON lacks, are null.
void append_json(std::string& out, std::floating_point auto value) {
  if (std::isfinite(value)) {
    fmt::format_to(std::back_inserter(out), "{}", value);
  } else {
    out += "null";
  }
}

/// A JSON object on one line, its fields in the order in which they are added.
class JsonObject {
 public:
  /// `value`: bool, integer, float, string, JsonObject or a range (vector, span) of these. The same key must not come
  /// twice.
  template <class T>
  JsonObject& add(std::string_view key, const T& value);
  /// "{...}", without a newline.
  std::string str() const { return '{' + fields_ + '}'; }

 private:
  std::string fields_;
};

inline void append_json(std::string& out, const JsonObject& object) { out += object.str(); }

template <std::ranges::input_range R>
requires(!std::convertible_to<const R&, std::string_view>) void append_json(std::string& out, const R& values) {
  out += '[';
  bool first = true;
  for (const auto& value : values) {
    if (!first) out += ',';
    first = false;
    append_json(out, value);
  }
  out += ']';
}

template <class T>
JsonObject& JsonObject::add(std::string_view key, const T& value) {
  if (!fields_.empty()) fields_ += ',';
  append_json(fields_, key);
  fields_ += ':';
  append_json(fields_, value);
  return *this;
}

}  // namespace sluice
