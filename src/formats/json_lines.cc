#include "formats/json_lines.h"

#include "base/error.h"
#include "formats/json.h"

namespace sluice {
namespace {

ChatMessage parse_message(const Json& message, const std::string& where) {
  if (!message.is_object()) fail("{}: expected an object, found {}", where, json_excerpt(message));
  const auto content = message.find("content");
  if (content != message.end() && content->is_null()) return {json_string(message, "role", where), ""};
  return {json_string(message, "role", where), json_string(message, "content", where)};
}

}  // namespace

JsonRecord parse_json_record(std::string_view line, const std::string& file, int64_t line_number) {
  const std::string where = fmt::format("{}:{}", file, line_number);
  const Json object = parse_json_object(line, where);
  const bool has_text = object.contains("text"), has_messages = object.contains("messages");
  if (has_text == has_messages)
    fail("{}: expected either \"text\" or \"messages\", found {}", where, has_text ? "both" : "neither");
  JsonRecord record;
  if (has_text) {
    record.text = json_string(object, "text", where);
    return record;
  }
  const Json& messages = object["messages"];
  if (!messages.is_array() || messages.empty())
    fail("{}: messages: expected an array of at least one message, found {}", where, json_excerpt(messages));
  for (size_t i = 0; i < messages.size(); ++i)
    record.messages.push_back(parse_message(messages[i], fmt::format("{}: messages[{}]", where, i)));
  return record;
}

void append_json(std::string& out, std::string_view text) {
  out += Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace sluice
