#include "validator.h"

#include <algorithm>
#include <cmath>
#include <regex>

namespace sluice {
namespace {

using json = nlohmann::json;

bool has_type(const json& value, const std::string& type) {
  if (type == "integer")
    return value.is_number_integer() || (value.is_number() && value == std::floor(value.get<double>()));
  if (type == "number") return value.is_number();
  return type == value.type_name();
}

int64_t num_characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

bool is_date(const std::string& text) {
  static const std::regex form("(\\d{4})-(\\d\\d)-(\\d\\d)");
  std::smatch m;
  if (!std::regex_match(text, m, form)) return false;
  const int year = std::stoi(m[1]), month = std::stoi(m[2]), day = std::stoi(m[3]);
  const bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
  const int days[] = {31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  return year >= 1 && month >= 1 && month <= 12 && day >= 1 && day <= days[month - 1];
}

bool is_time(const std::string& text) {
  static const std::regex form("(\\d\\d):(\\d\\d):(\\d\\d)(\\.\\d+)?(Z|[+-](\\d\\d):(\\d\\d))");
  std::smatch m;
  if (!std::regex_match(text, m, form)) return false;
  const auto at_most = [&](int group, int most) { return !m[group].matched || std::stoi(m[group]) <= most; };
  return at_most(1, 23) && at_most(2, 59) && at_most(3, 59) && at_most(6, 23) && at_most(7, 59);
}

bool has_format(const std::string& text, const std::string& format) {
  if (format == "date") return is_date(text);
  if (format == "time") return is_time(text);
  if (format == "date-time")
    return text.size() > 11 && text[10] == 'T' && is_date(text.substr(0, 10)) && is_time(text.substr(11));
  if (format == "uuid") return std::regex_match(text, std::regex("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"));
  if (format == "email") return std::regex_match(text, std::regex("[^@ ]+@[^@ ]+\\.[^@. ]+"));
  if (format == "ipv4") {
    static const std::regex form("(\\d+)\\.(\\d+)\\.(\\d+)\\.(\\d+)");
    std::smatch m;
    if (!std::regex_match(text, m, form)) return false;
    return std::all_of(m.begin() + 1, m.end(), [](const auto& g) { return g.length() < 4 && std::stoi(g) < 256; });
  }
  if (format == "ipv6") {
    const auto colons = std::count(text.begin(), text.end(), ':');
    const size_t twice = text.find("::");
    const bool form = std::regex_match(text, std::regex("([0-9a-fA-F]{1,4}|:)+"));
    return form && colons <= 8 &&
           (twice == std::string::npos ? colons == 7 : text.find("::", twice + 1) == std::string::npos);
  }
  if (format == "hostname")
    return text.size() < 254 && std::regex_match(text, std::regex("[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"));
  if (format == "uri") return std::regex_match(text, std::regex("[a-z][a-z0-9+.-]*://[^ \"#]+(#[^ \"#]*)?"));
  if (format == "duration")
    return std::regex_match(text,
                            std::regex("P(?=.)(\\d+Y)?(\\d+M)?(\\d+D)?(\\d+W)?(T(?=.)(\\d+H)?(\\d+M)?(\\d+S)?)?"));
  return false;
}

bool is_valid_string(const std::string& text, const json& s) {
  if (s.contains("minLength") && num_characters(text) < s["minLength"]) return false;
  if (s.contains("maxLength") && num_characters(text) > s["maxLength"]) return false;
  if (s.contains("pattern") && !std::regex_search(text, std::regex(s["pattern"].get<std::string>()))) return false;
  return !s.contains("format") || has_format(text, s["format"]);
}

bool is_valid_array(const json& value, const json& s, const json& root) {
  if (s.contains("minItems") && value.size() < s["minItems"]) return false;
  if (s.contains("maxItems") && value.size() > s["maxItems"]) return false;
  const size_t fixed = s.contains("prefixItems") ? s["prefixItems"].size() : 0;
  for (size_t i = 0; i < value.size(); ++i) {
    if (i < fixed && !is_valid(value[i], s["prefixItems"][i], root)) return false;
    if (i >= fixed && s.contains("items") && !is_valid(value[i], s["items"], root)) return false;
  }
  return true;
}

bool is_valid_object(const json& value, const json& s, const json& root) {
  for (const auto& name : s.value("required", json::array()))
    if (!value.contains(name.get<std::string>())) return false;
  for (const auto& [name, member] : value.items()) {
    if (s.contains("properties") && s["properties"].contains(name)) {
      if (!is_valid(member, s["properties"][name], root)) return false;
    } else if (s.contains("additionalProperties") && !is_valid(member, s["additionalProperties"], root)) {
      return false;
    }
  }
  return true;
}

}  // namespace

bool is_valid(const json& value, const json& s, const json& root) {
  if (s.is_boolean()) return s.get<bool>();
  if (s.value("nullable", false) && value.is_null()) return true;
  if (s.contains("$ref")) {
    const std::string reference = s["$ref"];
    if (!is_valid(value, root.at(json::json_pointer(reference.substr(1))), root)) return false;
  }
  const auto holds = [&](const json& part) { return is_valid(value, part, root); };
  if (s.contains("allOf") && !std::all_of(s["allOf"].begin(), s["allOf"].end(), holds)) return false;
  for (const char* any : {"anyOf", "oneOf"})
    if (s.contains(any) && std::none_of(s[any].begin(), s[any].end(), holds)) return false;
  if (s.contains("type")) {
    const json types = s["type"].is_array() ? s["type"] : json::array({s["type"]});
    if (std::none_of(types.begin(), types.end(), [&](const json& t) { return has_type(value, t); })) return false;
  }
  if (s.contains("enum") && std::find(s["enum"].begin(), s["enum"].end(), value) == s["enum"].end()) return false;
  if (s.contains("const") && s["const"] != value) return false;
  if (value.is_number()) {
    const bool exclusive_min = s.value("exclusiveMinimum", json()).is_number();
    if (s.contains("minimum") && value < s["minimum"]) return false;
    if (s.contains("maximum") && value > s["maximum"]) return false;
    if (exclusive_min && value <= s["exclusiveMinimum"]) return false;
    if (s.contains("exclusiveMaximum") && s["exclusiveMaximum"].is_number() && value >= s["exclusiveMaximum"])
      return false;
  }
  if (value.is_string()) return is_valid_string(value.get<std::string>(), s);
  if (value.is_array()) return is_valid_array(value, s, root);
  return !value.is_object() || is_valid_object(value, s, root);
}

}  // namespace sluice
