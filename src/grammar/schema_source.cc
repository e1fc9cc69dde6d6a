#include "grammar/schema_source.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "grammar/compile_work.h"
#include "grammar/number_range.h"

namespace sluice {
namespace {

constexpr size_t kMaxSchemaBytes = size_t{256} << 10;
constexpr size_t kMaxPath = 200;
constexpr size_t kMaxName = 60;        // in a path
constexpr int kMaxReferences = 32;     // one after the other
constexpr size_t kValueWork = 16;      // of copying or comparing a value, in the steps of kMaxCompileWork
constexpr size_t kBytesPerValue = 64;  // of strings and names, which count too
constexpr size_t kValuesPerName = 2;   // of a reference
constexpr size_t kMaxMembers = 1000;   // of one list or object: what is ordered is searched one by one
constexpr size_t kMaxNesting = 200;    // merging nests what was written
constexpr size_t kMaxAlternatives = 256;

/// Keywords that say nothing about which values are valid.
constexpr std::array kAnnotations = {"title",        "description", "default",         "example",
                                     "examples",     "deprecated",  "readOnly",        "writeOnly",
                                     "$comment",     "$schema",     "contentEncoding", "contentMediaType",
                                     "externalDocs", "definitions", "$defs",           "discriminator"};

constexpr std::array kKeywords = {"$ref",
                                  "allOf",
                                  "anyOf",
                                  "oneOf",
                                  "type",
                                  "enum",
                                  "const",
                                  "nullable",
                                  "required",
                                  "properties",
                                  "items",
                                  "minItems",
                                  "maxItems",
                                  "format",
                                  "additionalProperties",
                                  "prefixItems",
                                  "pattern",
                                  "minLength",
                                  "maxLength",
                                  "exclusiveMinimum",
                                  "exclusiveMaximum",
                                  "minimum",
                                  "maximum"};

template <class List>
bool is_among(const List& list, std::string_view key) {
  return std::find(list.begin(), list.end(), key) != list.end();
}

bool is_object(const OrderedJson& schema, const char* key) { return schema.is_object() && schema.contains(key); }

OrderedJson all_of(const OrderedJson& a, const OrderedJson& b) { return {{"allOf", OrderedJson::array({a, b})}}; }

std::string readable(std::string_view key) {
  std::string text =
      OrderedJson(key.substr(0, 2 * kMaxName)).dump(-1, ' ', true, OrderedJson::error_handler_t::replace);
  text = text.substr(1, text.size() - 2);
  return text.size() > kMaxName ? text.substr(0, kMaxName - 3) + "..." : text;
}

/// Values in `value`, itself included; long texts count as several.
size_t num_values(const OrderedJson& value, size_t depth = 0) {
  if (depth > kMaxNesting) return kMaxCompileWork;
  size_t count = 1;
  if (value.is_string()) count += value.get_ref<const std::string&>().size() / kBytesPerValue;
  if (value.is_structured())
    for (const auto& [key, member] : value.items())
      count += key.size() / kBytesPerValue + num_values(member, depth + 1);
  return count;
}

size_t num_properties(const OrderedJson& schema) {
  const auto properties = schema.find("properties");
  return properties == schema.end() ? 0 : properties->size();
}

void refuse_many_members(const Json& value, const std::string& where) {
  if (!value.is_structured()) return;
  if (value.size() > kMaxMembers)
    fail("{}: expected at most {} members in a list or object, found {}", where, kMaxMembers, value.size());
  for (const Json& member : value) refuse_many_members(member, where);
}

OrderedJson common(const OrderedJson& a, const OrderedJson& b) {
  OrderedJson out = OrderedJson::array();
  for (const auto& x : a)
    if (std::find(b.begin(), b.end(), x) != b.end()) out.push_back(x);
  return out;
}

OrderedJson as_list(const OrderedJson& value) { return value.is_array() ? value : OrderedJson::array({value}); }

OrderedJson common_types(const OrderedJson& a, const OrderedJson& b) {
  const OrderedJson x = as_list(a), y = as_list(b);
  OrderedJson out = common(x, y);
  const auto has = [](const OrderedJson& list, const char* type) {
    return std::find(list.begin(), list.end(), type) != list.end();
  };
  if ((has(x, "integer") && has(y, "number")) || (has(y, "integer") && has(x, "number")))
    if (!has(out, "integer") && !has(out, "number")) out.push_back("integer");
  return out;
}

bool is_less(const OrderedJson& a, const OrderedJson& b, const std::string& where) {
  return compare(parse_decimal(a.dump(), where), parse_decimal(b.dump(), where)) < 0;
}

}  // namespace

OrderedJson parse_schema(std::string_view text, const std::string& where) {
  if (text.size() > kMaxSchemaBytes)
    fail("{}: expected at most {} bytes, found {}", where, kMaxSchemaBytes, text.size());
  refuse_many_members(parse_json(text, where), where);  // the strict reader, which sorts
  return OrderedJson::parse(text);
}

std::string schema_path(const std::string& path, std::string_view key) {
  std::string out = path.empty() ? readable(key) : path + "." + readable(key);
  return out.size() > kMaxPath ? "..." + out.substr(out.size() - kMaxPath / 2) : out;
}

std::string schema_path(const std::string& path, std::string_view key, size_t index) {
  return schema_path(path, fmt::format("{}[{}]", key, index));
}

const OrderedJson& SchemaSource::target(const OrderedJson& reference, std::string& path) {
  if (!reference.is_string()) refuse(schema_path(path, "$ref"), "expected a string");
  const std::string& text = reference.get_ref<const std::string&>();
  const auto unknown = [&] {
    refuse(schema_path(path, "$ref"), "expected \"#/...\" of this schema, found \"{}\"", readable(text));
  };
  if (!text.starts_with('#') || (text.size() > 1 && text[1] != '/')) unknown();
  charge(text.size() / kBytesPerValue, path);
  const OrderedJson* at = &root_;
  std::string new_path;
  for (size_t i = 1; i < text.size();) {
    const size_t end = std::min(text.find('/', i + 1), text.size());
    std::string key;
    for (size_t j = i + 1; j < end; ++j) {
      const bool escaped = text[j] == '~' && j + 1 < end && (text[j + 1] == '0' || text[j + 1] == '1');
      key += !escaped ? text[j] : text[j + 1] == '0' ? '~' : '/';
      if (escaped) ++j;
    }
    charge(kValuesPerName, path);
    charge_search(1, at->size(), path);
    const bool is_index = at->is_array() && !key.empty() && key.size() < 6 &&
                          std::all_of(key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (at->is_object() && at->contains(key)) {
      at = &at->at(key);
    } else if (is_index && std::stoul(key) < at->size()) {
      at = &at->at(std::stoul(key));
    } else {
      unknown();
    }
    new_path = schema_path(new_path, key);
    i = end;
  }
  path = new_path;
  return *at;
}

const OrderedJson& SchemaSource::follow(const OrderedJson& schema, std::string& path) {
  const OrderedJson* at = &schema;
  for (int i = 0; i < kMaxReferences; ++i) {
    if (!is_object(*at, "$ref")) return *at;
    for (const auto& [key, value] : at->items())
      if (key != "$ref" && !is_among(kAnnotations, key)) return *at;
    at = &target(at->at("$ref"), path);
  }
  refuse(path, "expected at most {} references one after the other", kMaxReferences);
}

OrderedJson SchemaSource::expand(const OrderedJson& schema, const std::string& path) { return expand(schema, path, 0); }

OrderedJson SchemaSource::expand(const OrderedJson& schema, const std::string& path, int depth) {
  if (schema.is_boolean()) return schema;
  if (!schema.is_object()) refuse(path, "expected a schema, found {}", json_excerpt(Json(schema)));
  if (depth > kMaxReferences) refuse(path, "refers to itself, or more than {} times", kMaxReferences);
  OrderedJson out = true;
  if (schema.contains("$ref")) {
    std::string target_path = path;
    const OrderedJson& referred = target(schema["$ref"], target_path);
    out = expand(referred, target_path, depth + 1);
  }
  if (schema.contains("allOf")) {
    const OrderedJson& parts = schema["allOf"];
    if (!parts.is_array() || parts.empty()) refuse(schema_path(path, "allOf"), "expected a list of schemas");
    for (size_t i = 0; i < parts.size(); ++i)
      out = merge(out, expand(parts[i], schema_path(path, "allOf", i), depth + 1), path);
  }
  out = merge(out, own_keywords(schema, path), path);
  if (schema.contains("nullable")) {
    if (!schema["nullable"].is_boolean()) refuse(schema_path(path, "nullable"), "expected true or false");
    if (schema["nullable"] == true) out = {{"anyOf", OrderedJson::array({out, OrderedJson({{"type", "null"}})})}};
  }
  return out;
}

void SchemaSource::charge(const OrderedJson& schema, const std::string& path) { charge(num_values(schema), path); }

void SchemaSource::charge(size_t values, const std::string& path) {
  work_ = std::min(work_ + kValueWork * values, kMaxCompileWork + 1);
  if (work_ > kMaxCompileWork)
    refuse(path, "too large, or too many references to be merged with what stands beside them");
}

/// What `schema` says itself.
OrderedJson SchemaSource::own_keywords(const OrderedJson& schema, const std::string& path) const {
  OrderedJson out = OrderedJson::object();
  for (const auto& [key, value] : schema.items()) {
    const bool annotation = is_among(kAnnotations, key) || key.starts_with("x-") || (key == "$id" && &schema == &root_);
    if (annotation || (key == "uniqueItems" && value == false)) continue;
    if (!is_among(kKeywords, key)) refuse(schema_path(path, key), "not supported");
    if (key != "$ref" && key != "allOf" && key != "nullable") out[key] = value;
  }
  if (out.contains("enum") && !out["enum"].is_array()) refuse(schema_path(path, "enum"), "expected a list of values");
  if (out.contains("const")) {
    const OrderedJson value = OrderedJson::array({out["const"]});
    out["enum"] = out.contains("enum") ? common(out["enum"], value) : value;
    out.erase("const");
  }
  for (const auto& [exclusive, bound] : {std::pair{"exclusiveMinimum", "minimum"}, {"exclusiveMaximum", "maximum"}})
    if (out.contains(exclusive) && out[exclusive].is_boolean()) {  // as in drafts up to 4
      const bool is_exclusive = out[exclusive] == true && out.contains(bound);
      out.erase(exclusive);
      if (is_exclusive) {
        const OrderedJson value = out[bound];
        out.erase(bound);
        out[exclusive] = value;
      }
    }
  return out.empty() ? OrderedJson(true) : out;
}

/// The schema of the values that are valid for both.
OrderedJson SchemaSource::merge(const OrderedJson& a, const OrderedJson& b, const std::string& path) {
  charge(a, path);
  charge(b, path);
  if (b == true || a == false) return a;
  if (a == true || b == false) return b;
  OrderedJson out = a;
  charge_search(num_properties(a), num_properties(b), path);
  merge_objects(out, b);
  merge_arrays(out, b, path);
  for (const auto& [key, value] : b.items()) {
    if (is_among(std::array{"properties", "additionalProperties", "items", "prefixItems"}, key)) continue;
    if (!out.contains(key)) {
      out[key] = value;
    } else if (out[key] != value) {
      if (value.is_array()) charge_search(value.size(), out[key].size(), path);
      out[key] = merge_keyword(key, out[key], value, path);
    }
  }
  return out;
}

/// A property that only one of the two names is, for the other, an additional one.
void SchemaSource::merge_objects(OrderedJson& out, const OrderedJson& b) const {
  const bool a_closed = out.contains("additionalProperties"), b_closed = b.contains("additionalProperties");
  OrderedJson properties = out.value("properties", OrderedJson::object());
  const OrderedJson others = b.value("properties", OrderedJson::object());
  if (!properties.is_object() || !others.is_object()) return;  // refused later
  if (b_closed)
    for (auto& [name, schema] : properties.items())
      if (!others.contains(name)) schema = all_of(schema, b["additionalProperties"]);
  for (const auto& [name, schema] : others.items()) {
    if (properties.contains(name)) {
      if (properties[name] != schema) properties[name] = all_of(properties[name], schema);
    } else {
      properties[name] = a_closed ? all_of(out["additionalProperties"], schema) : schema;
    }
  }
  if (!properties.empty()) out["properties"] = properties;
  if (a_closed && b_closed && out["additionalProperties"] != b["additionalProperties"]) {
    out["additionalProperties"] = all_of(out["additionalProperties"], b["additionalProperties"]);
  } else if (b_closed) {
    out["additionalProperties"] = b["additionalProperties"];
  }
}

void SchemaSource::merge_arrays(OrderedJson& out, const OrderedJson& b, const std::string& path) const {
  const bool a_items = out.contains("items"), b_items = b.contains("items");
  const bool a_prefix = out.contains("prefixItems"), b_prefix = b.contains("prefixItems");
  if (!b_items && !b_prefix) return;
  if (!a_items && !a_prefix) {
    if (b_items) out["items"] = b["items"];
    if (b_prefix) out["prefixItems"] = b["prefixItems"];
    return;
  }
  if (a_prefix || b_prefix) {
    const bool equal = a_prefix && b_prefix && a_items == b_items && out["prefixItems"] == b["prefixItems"] &&
                       (!a_items || out["items"] == b["items"]);
    if (!equal) refuse(schema_path(path, "prefixItems"), "not supported together with other items");
  } else if (out["items"] != b["items"]) {
    out["items"] = all_of(out["items"], b["items"]);
  }
}

OrderedJson SchemaSource::merge_keyword(const std::string& key, const OrderedJson& a, const OrderedJson& b,
                                        const std::string& path) const {
  const std::string key_path = schema_path(path, key);
  const auto expect = [&](bool condition, const char* what) {
    if (!condition) refuse(key_path, "expected {}", what);
  };
  if (key == "type") return common_types(a, b);
  if (key == "enum") return common(a, b);
  if (key == "required") {
    expect(a.is_array() && b.is_array(), "a list of names");
    OrderedJson out = a;
    for (const auto& name : b)
      if (std::find(a.begin(), a.end(), name) == a.end()) out.push_back(name);
    return out;
  }
  if (key == "anyOf" || key == "oneOf") {
    expect(a.is_array() && b.is_array(), "a list of schemas");
    if (a.size() * b.size() > kMaxAlternatives) refuse(key_path, "too many combinations of alternatives");
    OrderedJson out = OrderedJson::array();
    for (const auto& x : a)
      for (const auto& y : b) out.push_back(all_of(x, y));
    return out;
  }
  const bool upper = key.starts_with("max") || key == "exclusiveMaximum";
  if (!upper && !key.starts_with("min") && key != "exclusiveMinimum")
    refuse(key_path, "two of them for one value are not supported");
  expect(a.is_number() && b.is_number(), "a number");
  return is_less(a, b, where_) == upper ? a : b;
}

}  // namespace sluice
