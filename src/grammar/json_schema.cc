#include "grammar/json_schema.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "grammar/number_range.h"

namespace sluice {
namespace {

constexpr size_t kMaxRules = 10'000;
constexpr uint32_t kMaxLength = 20'000, kMaxItems = 10'000;

/// Keywords that speak of one type only, which a schema without `type` is taken to be of.
constexpr std::pair<const char*, const char*> kTypeOfKeyword[] = {
    {"properties", "object"}, {"required", "object"},         {"additionalProperties", "object"},
    {"items", "array"},       {"prefixItems", "array"},       {"minItems", "array"},
    {"maxItems", "array"},    {"minLength", "string"},        {"maxLength", "string"},
    {"pattern", "string"},    {"format", "string"},           {"minimum", "number"},
    {"maximum", "number"},    {"exclusiveMinimum", "number"}, {"exclusiveMaximum", "number"}};

constexpr std::array kTypes = {"null", "boolean", "integer", "number", "string", "array", "object"};

bool is_of_type(const OrderedJson& value, const std::string& type) {
  if (type == "null") return value.is_null();
  if (type == "boolean") return value.is_boolean();
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  if (type == "string") return value.is_string();
  return type == "array" ? value.is_array() : value.is_object();
}

}  // namespace

SchemaCompiler::SchemaCompiler(AutomatonBuilder& net, JsonText& json, std::string_view text, const std::string& where,
                               size_t& work)
    : net_(net), json_(json), where_(where), source_(parse_schema(text, where), where, work), work_(work) {}

Rule SchemaCompiler::compile() {
  const Rule root = rule_of(source_.root(), "");
  while (!tasks_.empty()) {
    const Task task = std::move(tasks_.front());
    tasks_.pop_front();
    build(task);
  }
  return root;
}

Rule SchemaCompiler::rule_of(const OrderedJson& schema, const std::string& path) {
  std::string target_path = path;
  const OrderedJson& target = source_.follow(schema, target_path);
  source_.charge(target, target_path);
  const auto [it, is_new] = rules_.try_emplace(target.dump());
  if (!is_new) return it->second;
  if (rules_.size() > kMaxRules) source_.refuse(target_path, "more than {} different schemas", kMaxRules);
  it->second = net_.add_rule();
  tasks_.push_back({it->second, source_.expand(target, target_path), target_path});
  return it->second;
}

void SchemaCompiler::build(const Task& task) {
  if (task.schema == false) return;  // nothing is valid: the rule stays without an edge
  if (task.schema == true) return net_.call(task.rule.start, json_.any_value(), task.rule.end);
  for (const char* keyword : {"anyOf", "oneOf"})
    if (task.schema.contains(keyword)) return build_alternatives(task, keyword);
  if (task.schema.contains("enum")) return build_enum(task);
  const std::vector<std::string> types = types_of(task.schema, task.path);
  const auto has = [&](const char* type) { return std::find(types.begin(), types.end(), type) != types.end(); };
  for (const std::string& type : types)
    if (type != "integer" || !has("number")) build_type(type, task);
}

/// Of oneOf, too, any alternative will do: that no other one holds as well cannot be seen byte by byte.
void SchemaCompiler::build_alternatives(const Task& task, const char* keyword) {
  OrderedJson rest = task.schema;
  const OrderedJson alternatives = rest[keyword];
  rest.erase(keyword);
  if (!alternatives.is_array() || alternatives.empty())
    source_.refuse(schema_path(task.path, keyword), "expected a list of schemas");
  for (size_t i = 0; i < alternatives.size(); ++i) {
    const OrderedJson both = {{"allOf", OrderedJson::array({rest, alternatives[i]})}};
    const Rule rule = rule_of(rest.empty() ? alternatives[i] : both, schema_path(task.path, keyword, i));
    net_.call(task.rule.start, rule, task.rule.end);
  }
}

void SchemaCompiler::build_enum(const Task& task) {
  for (const auto& [key, value] : task.schema.items())
    if (key != "enum" && key != "type")
      source_.refuse(schema_path(task.path, key), "not supported together with enum or const");
  std::vector<std::string> types(kTypes.begin(), kTypes.end());
  if (task.schema.contains("type")) types = types_of(task.schema, task.path);
  std::vector<std::string> texts;
  for (const OrderedJson& value : task.schema["enum"])
    if (std::any_of(types.begin(), types.end(), [&](const std::string& type) { return is_of_type(value, type); }))
      texts.push_back(value.dump());
  net_.literals(task.rule.start, texts, task.rule.end);
}

std::vector<std::string> SchemaCompiler::types_of(const OrderedJson& schema, const std::string& path) const {
  std::vector<std::string> out;
  if (schema.contains("type")) {
    const OrderedJson& type = schema["type"];
    for (const OrderedJson& one : type.is_array() ? type : OrderedJson::array({type})) {
      if (!one.is_string() || std::find(kTypes.begin(), kTypes.end(), one.get<std::string>()) == kTypes.end())
        source_.refuse(schema_path(path, "type"), "expected null, boolean, integer, number, string, array or object");
      out.push_back(one.get<std::string>());
    }
  } else {
    for (const auto& [keyword, type] : kTypeOfKeyword)
      if (schema.contains(keyword)) out.push_back(type);
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

void SchemaCompiler::build_type(const std::string& type, const Task& task) {
  if (type == "null") {
    net_.literal(task.rule.start, "null", task.rule.end);
  } else if (type == "boolean") {
    net_.literals(task.rule.start, {"true", "false"}, task.rule.end);
  } else if (type == "string") {
    build_string(task);
  } else if (type == "array") {
    build_array(task);
  } else if (type == "object") {
    build_object(task);
  } else {
    build_number(task, type == "integer");
  }
}

uint32_t SchemaCompiler::count_of(const OrderedJson& schema, const char* key, uint32_t otherwise,
                                  const std::string& path) const {
  if (!schema.contains(key)) return otherwise;
  const OrderedJson& value = schema[key];
  const uint32_t most = std::string_view(key).ends_with("Length") ? kMaxLength : kMaxItems;
  if (!value.is_number_unsigned() || value.get<uint64_t>() > most)
    source_.refuse(schema_path(path, key), "expected an integer from 0 to {}, found {}", most,
                   json_excerpt(Json(value)));
  return value.get<uint32_t>();
}

void SchemaCompiler::build_string(const Task& task) {
  const uint32_t min = count_of(task.schema, "minLength", 0, task.path);
  const uint32_t max = count_of(task.schema, "maxLength", JsonText::kNoLimit, task.path);
  const bool has_pattern = task.schema.contains("pattern"), has_format = task.schema.contains("format");
  if (max < min) return;
  if (!has_pattern && !has_format) return json_.string(task.rule.start, min, max, task.rule.end);
  if (has_pattern && has_format)
    source_.refuse(schema_path(task.path, "format"), "not supported together with pattern");
  const char* key = has_pattern ? "pattern" : "format";
  const std::string path = schema_path(task.path, key);
  if (!task.schema[key].is_string()) source_.refuse(path, "expected a string");
  std::string pattern = task.schema[key];
  if (has_format) {
    const std::string_view of_format = pattern_of_format(pattern);
    if (of_format.empty())
      source_.refuse(path, "expected {}, found {}", known_formats(), json_excerpt(Json(task.schema[key])));
    pattern = of_format;
  }
  const std::string where = where_ + ": " + path;
  const auto [known, is_new] = patterns_.try_emplace(pattern);
  if (is_new) known->second = compile_pattern(pattern, where, work_);
  const bool limited = min > 0 || max != JsonText::kNoLimit;
  add_strings(net_, json_, task.rule.start, limited ? limit_length(known->second, min, max, where) : known->second,
              task.rule.end);
}

void SchemaCompiler::build_number(const Task& task, bool is_integer) {
  NumberRange range;
  range.is_integer = is_integer;
  const auto bound = [&](const char* key, bool exclusive, std::optional<NumberBound>& out, int tighter) {
    if (!task.schema.contains(key)) return;
    const std::string path = schema_path(task.path, key);
    const OrderedJson& value = task.schema[key];
    if (!value.is_number()) source_.refuse(path, "expected a number, found {}", json_excerpt(Json(value)));
    const Decimal decimal = parse_decimal(value.dump(), where_ + ": " + path);
    if (!out || compare(decimal, out->value) * tighter > 0 || (exclusive && compare(decimal, out->value) == 0))
      out = NumberBound{decimal, exclusive};
  };
  bound("minimum", false, range.min, 1);
  bound("exclusiveMinimum", true, range.min, 1);
  bound("maximum", false, range.max, -1);
  bound("exclusiveMaximum", true, range.max, -1);
  if (range.min || range.max) {
    add_numbers(net_, task.rule.start, range, task.rule.end);
  } else {
    json_.number(task.rule.start, is_integer, task.rule.end);
  }
}

void SchemaCompiler::build_array(const Task& task) {
  const OrderedJson prefix = task.schema.value("prefixItems", OrderedJson::array());
  const OrderedJson items = task.schema.value("items", OrderedJson(true));
  if (!prefix.is_array()) source_.refuse(schema_path(task.path, "prefixItems"), "expected a list of schemas");
  const uint32_t min = count_of(task.schema, "minItems", 0, task.path);
  const uint32_t fixed = static_cast<uint32_t>(prefix.size());
  const bool closed = items == false;
  const uint32_t max =
      std::min(count_of(task.schema, "maxItems", JsonText::kNoLimit, task.path), closed ? fixed : JsonText::kNoLimit);
  if (max < min) return;

  const uint32_t open = net_.add_state(), inside = net_.add_state(), close = net_.add_state();
  net_.byte(task.rule.start, '[', open);
  json_.space(open, inside);
  if (min == 0) net_.empty(inside, close);
  net_.byte(close, ']', task.rule.end);
  uint32_t next = net_.add_state();  // where an item begins
  net_.empty(inside, next);
  const uint32_t chain = max == JsonText::kNoLimit ? std::max(min, fixed) : max;
  const auto item = [&](uint32_t i) {
    return i < fixed ? rule_of(prefix[i], schema_path(task.path, "prefixItems", i))
                     : rule_of(items, schema_path(task.path, "items"));
  };
  for (uint32_t i = 0; i < max; ++i) {
    const bool loops = i == chain;  // from here on every item is like the last
    const uint32_t after = net_.add_state(), comma = net_.add_state();
    net_.call(next, item(i), after);
    if (i + 1 >= min) json_.space(after, close);
    net_.byte(after, ',', comma);
    const uint32_t following = loops ? next : net_.add_state();
    json_.space(comma, following);
    if (loops) break;
    next = following;
  }
}

}  // namespace sluice
