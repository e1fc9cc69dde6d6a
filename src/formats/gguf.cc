#include "formats/gguf.h"

#include <algorithm>
#include <array>
#include <fstream>

#include "base/error.h"
#include "formats/json.h"

namespace sluice {
namespace {

/// The name of a part: STEM-00001-of-00003.gguf.
struct PartName {
  std::string stem;
  int64_t number, count;  // 1 to count in the name

  std::string of(int64_t part) const { return fmt::format("{}-{:05}-of-{:05}.gguf", stem, part, count); }
};

std::optional<PartName> parse_part_name(const std::string& name) {
  constexpr std::string_view kPattern = "-00000-of-00000.gguf";
  if (name.size() < kPattern.size()) return std::nullopt;
  const size_t begin = name.size() - kPattern.size();
  for (size_t i = 0; i < kPattern.size(); ++i) {
    const char c = name[begin + i];
    if (kPattern[i] == '0' ? c < '0' || c > '9' : c != kPattern[i]) return std::nullopt;
  }
  return PartName{name.substr(0, begin), std::stoi(name.substr(begin + 1, 5)), std::stoi(name.substr(begin + 10, 5))};
}

void expect_value(const GgufMetadata& metadata, const fs::path& file, const char* key, int64_t expected) {
  const auto found = metadata.get<int64_t>(key);
  if (found != expected) fail("{}: {}: expected {}, found {}", file.string(), key, expected, found);
}

bool begins_as_gguf(const fs::path& file) {
  if (!fs::is_regular_file(file)) return false;  // a FIFO must not hang us
  std::array<char, 4> magic{};
  std::ifstream(file, std::ios::binary).read(magic.data(), magic.size());
  return std::string_view(magic.data(), magic.size()) == "GGUF";
}

}  // namespace

std::optional<fs::path> find_gguf(const fs::path& path) {
  if (!fs::is_directory(path)) return begins_as_gguf(path) ? std::optional(path) : std::nullopt;
  if (fs::exists(path / "config.json") || fs::exists(path / "latest")) return std::nullopt;
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
    const auto part = parse_part_name(entry.path().filename().string());
    if (entry.path().extension() == ".gguf" && !(part && part->number > 1)) found.push_back(entry.path());
  }
  if (found.size() > 1) fail("{}: expected one GGUF file, found {}: name the one to use", path.string(), found.size());
  return found.empty() ? std::nullopt : std::optional(found[0]);
}

GgufFile::GgufFile(const fs::path& path) : metadata_(path.string()) {
  const auto part = parse_part_name(path.filename().string());
  if (part && (part->number < 1 || part->number > part->count))
    fail("{}: expected a name that ends in a part from 00001 to {:05}, found {:05}", path.string(), part->count,
         part->number);
  if (part && part->count > 1) {
    for (int64_t i = 1; i <= part->count; ++i) {
      const fs::path file = path.parent_path() / part->of(i);
      GgufMetadata metadata = open_part(file);
      expect_value(metadata, file, "split.no", i - 1);
      expect_value(metadata, file, "split.count", part->count);
      if (i == 1) metadata_ = std::move(metadata);
    }
    expect_value(metadata_, this->path(), "split.tensors.count", static_cast<int64_t>(tensors_.size()));
  } else {
    metadata_ = open_part(path);
    // 0 and 1 occur in files that have been merged or never split.
    if (const auto count = metadata_.find<int64_t>("split.count"); count && *count > 1)
      fail("{}: expected a name that ends in -00001-of-{:05}.gguf or the like (split.count), found another",
           path.string(), *count);
  }
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const auto [it, is_new] = by_name_.emplace(tensors_[i].name, i);
    if (!is_new)
      fail("{}: {}: duplicate tensor: {} has it too", tensors_[i].file, json_excerpt(tensors_[i].name),
           tensors_[it->second].file);
  }
}

GgufMetadata GgufFile::open_part(const fs::path& path) {
  parts_.emplace_back(path);
  GgufHeader header = parse_gguf(parts_.back().bytes(), path.string());
  std::move(header.tensors.begin(), header.tensors.end(), std::back_inserter(tensors_));
  return std::move(header.metadata);
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

const GgufTensor& GgufFile::get(std::string_view name) const {
  const GgufTensor* tensor = find(name);
  if (!tensor) fail("{}: expected a tensor \"{}\", found none", path().string(), name);
  return *tensor;
}

}  // namespace sluice
