// YAML files and key=value pairs -> any configuration struct with `visit(v)`, which calls v(name, field) for all
// fields.
#pragma once
#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"

namespace sluice {

/// Throws Error "where: unknown key ...; the nearest is ...".
[[noreturn]] void fail_unknown_key(const std::vector<std::string>& names, const std::string& key,
                                   const std::string& where);

/// Calls set(key, value) for every key of a YAML map; keys without a value are left out. Throws Error naming file, line
/// or key for anything but a map of different plain keys.
void read_yaml_map(const fs::path& file, const std::function<void(const std::string&, const YAML::Node&)>& set);

/// Sets one field. Throws Error naming `where` and the key, with the nearest one where there is none of this name.
template <class Config>
void set_key(Config& c, const std::string& key, const YAML::Node& value, const std::string& where) {
  bool found = false;
  std::vector<std::string> names;
  c.visit([&](const std::string& name, auto& field) {
    names.push_back(name);
    if (name != key) return;
    found = true;
    using T = std::remove_reference_t<decltype(field)>;
    try {
      if constexpr (std::is_same_v<T, std::vector<std::string>>) {
        field = value.IsScalar() ? std::vector<std::string>{value.as<std::string>()} : value.as<T>();
      } else {
        field = value.as<T>();
      }
    } catch (const YAML::Exception&) {
      fail("{}: {}: expected {}, found {}", where, key,
           std::is_same_v<T, bool>      ? "true or false"
           : std::is_same_v<T, int64_t> ? "an integer"
           : std::is_same_v<T, double>  ? "a number"
                                        : "text or a list of texts",
           value.IsScalar() ? value.Scalar() : std::string("a list or map"));
    }
  });
  if (!found) fail_unknown_key(names, key, where);
}

template <class Config>
void read_yaml(Config& c, const fs::path& file) {
  read_yaml_map(file, [&](const std::string& key, const YAML::Node& value) { set_key(c, key, value, file.string()); });
}

/// "key=value" of the command line.
template <class Config>
void set_pair(Config& c, const std::string& pair) {
  const size_t at = pair.find('=');
  if (at == std::string::npos) fail("command line: expected key=value, found {}", pair);
  set_key(c, pair.substr(0, at), YAML::Node(pair.substr(at + 1)), "command line");
}

}  // namespace sluice
