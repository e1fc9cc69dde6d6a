#include "cli/yaml_config.h"

#include <algorithm>

namespace sluice {
namespace {

int edit_distance(const std::string& a, const std::string& b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

void fail_unknown_key(const std::vector<std::string>& names, const std::string& key, const std::string& where) {
  const auto nearest = std::min_element(names.begin(), names.end(), [&](const std::string& a, const std::string& b) {
    return edit_distance(key, a) < edit_distance(key, b);
  });
  fail("{}: unknown key {}; the nearest is {}", where, key, *nearest);
}

void read_yaml_map(const fs::path& file, const std::function<void(const std::string&, const YAML::Node&)>& set) {
  YAML::Node root;
  try {
    root = YAML::Load(read_file(file));
  } catch (const YAML::Exception& e) {
    fail("{}:{}: {}", file.string(), e.mark.line + 1, e.msg);
  }
  if (!root.IsMap()) fail("{}: expected a map of keys", file.string());
  std::set<std::string> keys;
  for (const auto& item : root) {
    if (!item.first.IsScalar()) fail("{}: expected plain keys", file.string());
    if (item.second.IsNull()) continue;  // "key:" says nothing
    if (!keys.insert(item.first.Scalar()).second) fail("{}: {}: found twice", file.string(), item.first.Scalar());
    set(item.first.Scalar(), item.second);
  }
}

}  // namespace sluice
