#include "formats/json.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <set>
#include <vector>

#include "base/error.h"

namespace sluice {
namespace {

constexpr int kMaxDepth = 64;
constexpr size_t kMaxBytes = size_t{64} << 20;
constexpr size_t kMaxOrderedKeys = 4096;

/// `key` of `object`, or Error.
const Json& field(const Json& object, const char* key, const char* expected, const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end()) fail("{}: {}: expected {}, found nothing", where, key, expected);
  return *it;
}

template <class J>
J parse(std::string_view text, const std::string& where, size_t most_keys) {
  if (text.size() > kMaxBytes) fail("{}: expected at most {} bytes of JSON, found {}", where, kMaxBytes, text.size());
  // The library takes a '\0' for the end of the text.
  if (text.find('\0') != text.npos) fail("{}: expected JSON text, found a zero byte", where);
  std::vector<std::set<std::string>> keys;
  const auto guard = [&](int depth, typename J::parse_event_t event, J& value) {
    using Event = typename J::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= kMaxDepth) fail("{}: JSON is nested deeper than {}", where, kMaxDepth);
      keys.emplace_back();
    } else if (event == Event::object_end || event == Event::array_end) {
      keys.pop_back();
    } else if (event == Event::key) {
      if (!keys.back().insert(value.template get_ref<const std::string&>()).second)
        fail("{}: duplicate key {}", where, json_excerpt(value));
      if (keys.back().size() > most_keys) fail("{}: an object has more than {} keys", where, most_keys);
    }
    return true;
  };
  try {
    return J::parse(text, guard);
  } catch (const nlohmann::json::exception& e) {
    fail("{}: malformed JSON: {}", where, json_message(e));
  }
}

template <class J>
std::string excerpt(const J& value) {
  // Large values are named by kind: writing them out only to cut them off would take long.
  if (value.is_structured() && value.size() > 16) return value.is_array() ? "a long array" : "a large object";
  std::string text = value.dump(-1, ' ', true, J::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

}  // namespace

std::string json_message(const nlohmann::json::exception& e) {
  std::string text = e.what();
  if (const size_t bracket = text.find("] "); text.starts_with('[') && bracket != std::string::npos)
    text.erase(0, bracket + 2);
  if (text.size() > 200) text = text.substr(0, 200) + "...";
  std::string clean;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f) {
      clean += c;
    } else {
      clean += ' ';
    }
  }
  return clean;
}

Json parse_json(std::string_view text, const std::string& where) { return parse<Json>(text, where, SIZE_MAX); }

OrderedJson parse_ordered_json(std::string_view text, const std::string& where) {
  return parse<OrderedJson>(text, where, kMaxOrderedKeys);
}

std::string json_excerpt(const Json& value) { return excerpt(value); }
std::string json_excerpt(const OrderedJson& value) { return excerpt(value); }
std::string json_excerpt(const std::string& text) { return excerpt(Json(text)); }

Json parse_json_object(std::string_view text, const std::string& where) {
  Json object = parse_json(text, where);
  if (!object.is_object()) fail("{}: expected a JSON object, found {}", where, json_excerpt(object));
  return object;
}

uint64_t json_uint(const Json& object, const char* key, const std::string& where) {
  const Json& value = field(object, key, "an integer >= 0", where);
  if (!value.is_number_unsigned()) fail("{}: {}: expected an integer >= 0, found {}", where, key, json_excerpt(value));
  return value.get<uint64_t>();
}

std::string json_string(const Json& object, const char* key, const std::string& where) {
  const Json& value = field(object, key, "a string", where);
  if (!value.is_string()) fail("{}: {}: expected a string, found {}", where, key, json_excerpt(value));
  return value.get<std::string>();
}

const Json& json_object(const Json& object, const char* key, const std::string& where) {
  const Json& value = field(object, key, "an object", where);
  if (!value.is_object()) fail("{}: {}: expected an object, found {}", where, key, json_excerpt(value));
  return value;
}

bool is_inner_path(std::string_view path) {
  const std::filesystem::path p(path);
  const bool control = std::any_of(path.begin(), path.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
  if (path.empty() || control || p.is_absolute()) return false;
  for (const auto& part : p)
    if (part == "..") return false;
  return true;
}

}  // namespace sluice
