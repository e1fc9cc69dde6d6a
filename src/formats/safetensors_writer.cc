#include <algorithm>
#include <map>
#include <unordered_set>

#include "base/error.h"
#include "formats/json_lines.h"
#include "formats/safetensors.h"

namespace sluice {
namespace {

constexpr size_t kAlignment = 64;

/// The length and the JSON text, padded with spaces so that the data behind it is aligned.
std::string make_header(const std::vector<SafetensorsSpec>& tensors) {
  JsonObject header;
  header.add("__metadata__", JsonObject().add("format", "pt"));
  std::unordered_set<std::string_view> names;
  uint64_t offset = 0;
  for (const SafetensorsSpec& t : tensors) {
    check(names.insert(t.name).second && t.name != "__metadata__", "SafetensorsWriter: duplicate or reserved name");
    const std::array<uint64_t, 2> offsets = {offset, offset + t.bytes()};
    header.add(t.name,
               JsonObject().add("dtype", st_dtype_name(t.dtype)).add("shape", t.shape).add("data_offsets", offsets));
    offset = offsets[1];
  }
  std::string text(8, '\0');
  text += header.str();
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  for (size_t i = 0; i < 8; ++i) text[i] = static_cast<char>((text.size() - 8) >> (8 * i) & 0xff);
  return text;
}

}  // namespace

uint64_t SafetensorsSpec::bytes() const {
  uint64_t n = st_dtype_size(dtype);
  for (const int64_t d : shape)
    check(d >= 0 && !__builtin_mul_overflow(n, static_cast<uint64_t>(d), &n), "SafetensorsSpec: the size overflows");
  return n;
}

SafetensorsWriter::SafetensorsWriter(const fs::path& path, std::vector<SafetensorsSpec> tensors)
    : file_(path), sum_{path.filename().string()}, tensors_(std::move(tensors)) {
  std::stable_sort(tensors_.begin(), tensors_.end(),
                   [](const auto& a, const auto& b) { return st_dtype_size(a.dtype) > st_dtype_size(b.dtype); });
  for (const SafetensorsSpec& t : tensors_) data_bytes_ += t.bytes();
  const std::string header = make_header(tensors_);
  put(std::as_bytes(std::span(header)));
}

void SafetensorsWriter::put(std::span<const std::byte> bytes) {
  file_.write(bytes);
  sum_.size += bytes.size();
  sum_.crc32 = crc32_update(sum_.crc32, bytes);
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  check(bytes.size() <= data_bytes_ - written_, "SafetensorsWriter: more data than announced");
  put(bytes);
  written_ += bytes.size();
}

FileSum SafetensorsWriter::commit() {
  check(written_ == data_bytes_, "SafetensorsWriter: less data than announced");
  file_.commit();
  return sum_;
}

FileSum write_safetensors(const fs::path& path, std::vector<SafetensorsSpec> tensors, const SafetensorsSource& source) {
  SafetensorsWriter writer(path, std::move(tensors));
  for (const SafetensorsSpec& t : writer.tensors()) {
    const uint64_t end = writer.written() + t.bytes();
    source(t, writer);
    check(writer.written() == end, "write_safetensors: the source wrote another number of bytes");
  }
  return writer.commit();
}

std::string shard_name(const std::string& stem, size_t index, size_t count) {
  return count == 1 ? stem + ".safetensors" : fmt::format("{}-{:05}-of-{:05}.safetensors", stem, index + 1, count);
}

FileSum write_safetensors_index(const fs::path& folder, const std::string& stem,
                                const std::map<std::string, std::string>& file_of, uint64_t total_bytes) {
  JsonObject weight_map;
  for (const auto& [tensor, file] : file_of) weight_map.add(tensor, file);
  const std::string name = stem + ".safetensors.index.json";
  const JsonObject metadata = JsonObject().add("total_size", total_bytes);
  write_file(folder / name, JsonObject().add("metadata", metadata).add("weight_map", weight_map).str() + "\n");
  return sum_file(folder, name);
}

std::vector<FileSum> write_safetensors_folder(const fs::path& folder, const std::vector<SafetensorsSpec>& tensors,
                                              uint64_t max_shard_bytes, const SafetensorsSource& source) {
  std::vector<std::vector<SafetensorsSpec>> shards(1);
  uint64_t total = 0, in_shard = 0;
  for (const SafetensorsSpec& t : tensors) {
    const uint64_t bytes = t.bytes();
    if (!shards.back().empty() && in_shard + bytes > max_shard_bytes) {
      shards.emplace_back();
      in_shard = 0;
    }
    shards.back().push_back(t);
    in_shard += bytes;
    total += bytes;
  }
  std::vector<FileSum> files;
  std::map<std::string, std::string> file_of;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name("model", i, shards.size());
    for (const SafetensorsSpec& t : shards[i]) file_of[t.name] = name;
    files.push_back(write_safetensors(folder / name, std::move(shards[i]), source));
  }
  // The index comes last: without it the folder has no checkpoint.
  if (shards.size() > 1) files.push_back(write_safetensors_index(folder, "model", file_of, total));
  return files;
}

}  // namespace sluice
