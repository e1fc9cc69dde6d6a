#include "serve/fields.h"

#include <fmt/format.h>

#include "base/error.h"
#include "serve/api_error.h"

namespace sluice {

OrderedJson parse_body(std::string_view body) {
  OrderedJson json;
  try {
    json = parse_ordered_json(body, "body");
  } catch (const Error& e) {
    throw invalid_request(e.what());
  }
  if (!json.is_object()) throw invalid_request("body: expected a JSON object, found " + json_excerpt(json));
  return json;
}

Fields::Fields(const OrderedJson& object, std::string path) : object_(object), path_(std::move(path)) {
  if (!object.is_object()) throw invalid_param(path_, "expected an object, found " + json_excerpt(object));
}

const OrderedJson* Fields::find(const char* name) const {
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

std::optional<double> Fields::number(const char* name, double low, double high) const {
  const OrderedJson* value = find(name);
  if (!value) return std::nullopt;
  const double number = value->is_number() ? value->get<double>() : low - 1;
  if (!(number >= low && number <= high)) refuse(name, fmt::format("a number from {} to {}", low, high), *value);
  return number;
}

std::optional<int64_t> Fields::integer(const char* name, int64_t low, int64_t high) const {
  const OrderedJson* value = find(name);
  if (!value) return std::nullopt;
  const bool fits = value->is_number_unsigned() ? value->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX)
                                                : value->is_number_integer();
  if (!fits || value->get<int64_t>() < low || value->get<int64_t>() > high)
    refuse(name, fmt::format("an integer from {} to {}", low, high), *value);
  return value->get<int64_t>();
}

std::optional<bool> Fields::boolean(const char* name) const {
  const OrderedJson* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) refuse(name, "true or false", *value);
  return value->get<bool>();
}

std::optional<std::string> Fields::text(const char* name) const {
  const OrderedJson* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_string()) refuse(name, "a string", *value);
  return value->get<std::string>();
}

std::optional<Fields> Fields::object(const char* name) const {
  const OrderedJson* value = find(name);
  if (!value) return std::nullopt;
  return Fields(*value, name_of(name));
}

std::string Fields::name_of(const char* name) const { return path_.empty() ? name : path_ + "." + name; }

void Fields::refuse(const char* name, const std::string& expected, const OrderedJson& found) const {
  throw invalid_param(name_of(name), fmt::format("expected {}, found {}", expected, json_excerpt(found)));
}

}  // namespace sluice
