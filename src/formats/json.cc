#include "formats/json.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <set>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"

namespace sluice {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxBytes = size_t{64} << 20;

/// `key` of `object`, or Error.
const Json& field(const Json& object, const char* key, const char* expected, const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end()) fail("{}: {}: expected {}, found nothing", where, key, expected);
  return *it;
}

/// What a document may have; beyond, it is refused while it is read.
struct Limits {
  size_t keys;    // of each object
  size_t values;  // in all
};
constexpr Limits kLimits{SIZE_MAX, size_t{8} << 20};
constexpr Limits kOrderedLimits{4096, size_t{1} << 20};

/// Builds the document from the parser's events. The library's own builders either keep duplicate keys or walk the
/// whole parent at the end of each value.
template <class J>
class Builder : public nlohmann::json_sax<J> {
  using Sax = nlohmann::json_sax<J>;

 public:
  Builder(const std::string& where, const Limits& limits) : where_(where), limits_(limits) {}

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(typename Sax::number_integer_t value) override { return add(value); }
  bool number_unsigned(typename Sax::number_unsigned_t value) override { return add(value); }
  bool number_float(typename Sax::number_float_t value, const std::string&) override { return add(value); }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool binary(typename Sax::binary_t&) override { return false; }  // not in JSON text
  bool start_object(size_t) override { return open(J::object()); }
  bool start_array(size_t) override { return open(J::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    std::set<std::string>& keys = open_.back().keys;
    if (!keys.insert(name).second) fail("{}: duplicate key {}", where_, json_excerpt(name));
    if (keys.size() > limits_.keys) fail("{}: an object has more than {} keys", where_, limits_.keys);
    auto& object = open_.back().value->template get_ref<typename J::object_t&>();
    if constexpr (std::is_same_v<J, OrderedJson>) {
      member_ = &object.std::template vector<std::pair<const std::string, J>>::emplace_back(name, nullptr).second;
    } else {
      member_ = &object[name];
    }
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& e) override {
    fail("{}: malformed JSON: {}", where_, json_message(e));
  }

  J take() { return std::move(root_); }

 private:
  struct Open {
    J* value;  // stays in place: its parent gets no other child before it is closed
    std::set<std::string> keys{};
  };

  J* place(J&& value) {
    if (++num_values_ > limits_.values) fail("{}: JSON has more than {} values", where_, limits_.values);
    if (open_.empty()) return &(root_ = std::move(value));
    J& parent = *open_.back().value;
    if (!parent.is_array()) return &(*member_ = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }
  bool add(J&& value) { return place(std::move(value)) != nullptr; }
  bool open(J&& value) {
    if (open_.size() >= kMaxDepth) fail("{}: JSON is nested deeper than {}", where_, kMaxDepth);
    open_.push_back({place(std::move(value))});
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  const std::string& where_;
  const Limits limits_;
  J root_;
  std::vector<Open> open_;
  J* member_ = nullptr;  // what the last key names
  size_t num_values_ = 0;
};

template <class J>
J parse(std::string_view text, const std::string& where, const Limits& limits) {
  if (text.size() > kMaxBytes) fail("{}: expected at most {} bytes of JSON, found {}", where, kMaxBytes, text.size());
  // The library takes a '\0' for the end of the text.
  if (text.find('\0') != text.npos) fail("{}: expected JSON text, found a zero byte", where);
  Builder<J> builder(where, limits);
  J::sax_parse(text, &builder);
  return builder.take();
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

Json parse_json(std::string_view text, const std::string& where) { return parse<Json>(text, where, kLimits); }

OrderedJson parse_ordered_json(std::string_view text, const std::string& where) {
  return parse<OrderedJson>(text, where, kOrderedLimits);
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
