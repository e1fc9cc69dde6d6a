#include "formats/checksums.h"

#include <zlib.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "formats/json.h"

namespace sluice {
namespace {

/// One entry of checksums.json.
FileSum parse_sum(const std::string& name, const Json& value, const std::string& where) {
  if (!is_inner_path(name)) fail("{}: expected the name of a file inside the folder", where);
  if (!value.is_object()) fail("{}: expected an object, found {}", where, json_excerpt(value));
  const std::string hex = json_string(value, "crc32", where);
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (hex.size() != 8 || !std::all_of(hex.begin(), hex.end(), is_hex))
    fail("{}: crc32: expected 8 lower-case hexadecimal digits, found {}", where, json_excerpt(hex));
  return {name, json_uint(value, "size", where), static_cast<uint32_t>(std::stoul(hex, nullptr, 16))};
}

}  // namespace

uint32_t crc32_update(uint32_t crc, std::span<const std::byte> bytes) {
  if (bytes.empty()) return crc;  // zlib takes a null pointer for "start again"
  return static_cast<uint32_t>(::crc32_z(crc, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

FileSum sum_file(const fs::path& folder, const std::string& name) {
  const MappedFile file(folder / name);
  return {name, file.bytes().size(), crc32_update(0, file.bytes())};
}

void write_checksums(const fs::path& folder, const std::vector<FileSum>& files) {
  OrderedJson list = OrderedJson::object();
  for (const FileSum& f : files) list[f.name] = {{"size", f.size}, {"crc32", fmt::format("{:08x}", f.crc32)}};
  write_file(folder / "checksums.json", OrderedJson{{"files", list}}.dump(2) + "\n");
}

void verify_checksums(const fs::path& folder) {
  const std::string file = (folder / "checksums.json").string();
  const Json root = parse_json_object(read_file(file), file);
  for (const auto& [name, value] : json_object(root, "files", file).items()) {
    const FileSum expected = parse_sum(name, value, fmt::format("{}: files: {}", file, json_excerpt(name)));
    const FileSum found = sum_file(folder, name);
    if (found.size != expected.size)
      fail("{}: {}: expected {} bytes, found {}", (folder / name).string(),
           found.size < expected.size ? "truncated" : "corrupted", expected.size, found.size);
    if (found.crc32 != expected.crc32)
      fail("{}: corrupted: expected CRC32 {:08x}, found {:08x}", (folder / name).string(), expected.crc32, found.crc32);
  }
}

}  // namespace sluice
