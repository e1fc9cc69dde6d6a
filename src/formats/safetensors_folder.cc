#include <algorithm>
#include <map>

#include "base/error.h"
#include "formats/json.h"
#include "formats/safetensors.h"

namespace sluice {

SafetensorsFolder::SafetensorsFolder(const fs::path& folder, const std::string& stem) : folder_(folder) {
  const fs::path one = folder / (stem + ".safetensors"), index = folder / (stem + ".safetensors.index.json");
  std::error_code ignored;
  if (fs::exists(one, ignored)) {
    files_.emplace_back(one);
    for (const SafetensorsEntry& e : files_[0].entries()) entries_.push_back(&e);
  } else if (fs::exists(index, ignored)) {
    open_shards(index);
  } else {
    fail("{}: expected {} or {}, found neither", folder.string(), one.filename().string(), index.filename().string());
  }
  std::sort(entries_.begin(), entries_.end(), [](auto* a, auto* b) { return a->name < b->name; });
}

void SafetensorsFolder::open_shards(const fs::path& index) {
  const std::string where = index.string();
  const Json root = parse_json_object(read_file(index), where);
  const Json& weight_map = json_object(root, "weight_map", where);
  std::map<std::string, size_t> shards;  // name -> position in files_
  for (const auto& [tensor, shard] : weight_map.items()) {
    const std::string field = fmt::format("{}: weight_map: {}", where, json_excerpt(tensor));
    if (!shard.is_string()) fail("{}: expected a string, found {}", field, json_excerpt(shard));
    const std::string name = shard.get<std::string>();
    if (!is_inner_path(name) || name.find_first_of("/\\") != name.npos || name == ".")
      fail("{}: expected the name of a file in the folder, found {}", field, json_excerpt(shard));
    if (shards.emplace(name, files_.size()).second) files_.emplace_back(folder_ / name);
  }
  // Pointers into files_ are taken only now that it no longer grows.
  for (const auto& [tensor, shard] : weight_map.items()) {
    const SafetensorsFile& file = files_[shards.at(shard.get<std::string>())];
    const SafetensorsEntry* entry = file.find(tensor);
    if (!entry)
      fail("{}: expected the tensor {} ({}), found none", file.path().string(), json_excerpt(tensor),
           index.filename().string());
    entries_.push_back(entry);
  }
}

const SafetensorsEntry* SafetensorsFolder::find(std::string_view name) const {
  const auto it = std::lower_bound(entries_.begin(), entries_.end(), name,
                                   [](const SafetensorsEntry* e, std::string_view n) { return e->name < n; });
  return it != entries_.end() && (*it)->name == name ? *it : nullptr;
}

const SafetensorsEntry& SafetensorsFolder::get(std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  if (!entry) fail("{}: expected a tensor \"{}\", found none", folder_.string(), name);
  return *entry;
}

}  // namespace sluice
