// The formats of strings as patterns. Where a standard allows more than is common, the pattern is narrower: every
// string is valid, not every valid string can be written.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "grammar/char_dfa.h"

namespace sluice {
namespace {

std::string date_pattern() {
  const std::string year = "(?:000[1-9]|00[1-9]\\d|0[1-9]\\d\\d|[1-9]\\d{3})";
  const std::string leap_year =
      "(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)";  // of the Gregorian calendar
  return "(?:" + year + "-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|" +
         "02-(?:0[1-9]|1\\d|2[0-8]))|" + leap_year + "-02-29)";
}

std::string time_pattern() {
  return "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)";
}

std::string hostname_pattern() {
  const std::string label = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?";
  return label + "(?:\\." + label + "){0,5}";
}

std::string ipv4_pattern() {
  const std::string byte = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
  return byte + "(?:\\." + byte + "){3}";
}

/// Eight groups, or fewer of them at either side of one `::`.
std::string ipv6_pattern() {
  const std::string group = "[0-9a-fA-F]{1,4}";
  std::string out = "(?:(?:" + group + ":){7}" + group;
  for (int left = 0; left <= 6; ++left) {
    const std::string before = left == 0 ? "" : group + "(?::" + group + "){" + std::to_string(left - 1) + "}";
    out += "|" + before + "::(?:" + group + "(?::" + group + "){0," + std::to_string(6 - left) + "})?";
  }
  return out + ")";
}

std::string email_pattern() {
  const std::string atom = "[A-Za-z0-9_%+-]{1,32}";
  return atom + "(?:\\." + atom + "){0,3}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?\\.){1,4}[A-Za-z]{2,16}";
}

std::string duration_pattern() {
  const std::string n = "\\d{1,9}";
  const auto in_order = [&](const char* a, const char* b, const char* c) {
    return "(?:" + n + a + "(?:" + n + b + "(?:" + n + c + ")?)?|" + n + b + "(?:" + n + c + ")?|" + n + c + ")";
  };
  const std::string time = "T" + in_order("H", "M", "S");
  return "P(?:" + in_order("Y", "M", "D") + "(?:" + time + ")?|" + time + "|" + n + "W)";
}

std::string uri_pattern() {
  const auto characters = [](const std::string& more) {
    return "(?:[A-Za-z0-9._~!$&'()*+,;=:@/" + more + "-]|%[0-9A-Fa-f]{2})*";
  };
  return "[a-z][a-z0-9+.-]{1,15}://" + hostname_pattern() + "(?::\\d{1,4})?(?:/" + characters("") + ")?(?:\\?" +
         characters("?") + ")?(?:#" + characters("?") + ")?";
}

const std::vector<std::pair<std::string, std::string>>& formats() {
  static const auto whole = [](const std::string& pattern) { return "^" + pattern + "$"; };
  static const std::vector<std::pair<std::string, std::string>> all = {
      {"date", whole(date_pattern())},
      {"time", whole(time_pattern())},
      {"date-time", whole(date_pattern() + "T" + time_pattern())},
      {"duration", whole(duration_pattern())},
      {"uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"},
      {"email", whole(email_pattern())},
      {"hostname", whole(hostname_pattern())},
      {"ipv4", whole(ipv4_pattern())},
      {"ipv6", whole(ipv6_pattern())},
      {"uri", whole(uri_pattern())},
  };
  return all;
}

}  // namespace

std::string_view pattern_of_format(std::string_view format) {
  for (const auto& [name, pattern] : formats())
    if (name == format) return pattern;
  return {};
}

std::string known_formats() {
  std::string out;
  for (const auto& [name, pattern] : formats()) out += (out.empty() ? "" : ", ") + name;
  return out;
}

}  // namespace sluice
