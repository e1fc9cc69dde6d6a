// GGUF: memory-mapped reading of a file or of all its parts (specification 10.4; ggml's docs/gguf.md). Little-endian
// versions 2 and 3. Writing: formats/gguf_writer.h.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "formats/ggml_type.h"

namespace sluice {

/// Types of metadata values, numbered as in the file.
enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };
constexpr uint32_t kNumGgufTypes = 13;

/// A metadata value. Key and bytes point into the mapping.
struct GgufValue {
  std::string_view key;
  GgufType type = GgufType::u8;  // of an array: of its elements, which are no arrays
  bool is_array = false;
  uint64_t count = 1;  // of elements
  std::span<const std::byte>
      bytes;  // of the elements as in the file, at any alignment: a string is a u64 length + text
};

/// The value on one line for messages and listings: `61 (u32)`, `"yarn" (string)`, `an array of 129280 (string)`.
std::string gguf_excerpt(const GgufValue& value);

/// Metadata by key.
class GgufMetadata {
 public:
  /// `file` names the file in messages.
  explicit GgufMetadata(std::string file) : file_(std::move(file)) {}
  const std::string& file() const { return file_; }
  /// Throws Error when the key is there already.
  void add(const GgufValue& value);
  /// In the order of the file.
  const std::vector<GgufValue>& values() const { return values_; }
  /// Null when there is none.
  const GgufValue* value(std::string_view key) const;

  /// A value as T: int64_t (from every integer type), double (from f32 or f64), bool, std::string_view, or a
  /// std::vector of int64_t, double or std::string_view (from an array). String views point into the mapping. Throws
  /// Error naming file and key when there is none, or one of another type or, for int64_t, over 2^63 - 1.
  template <class T>
  T get(std::string_view key) const;
  /// The same, but none when there is no such key.
  template <class T>
  std::optional<T> find(std::string_view key) const;

 private:
  std::string file_;
  std::vector<GgufValue> values_;
  std::unordered_map<std::string_view, size_t> by_key_;  // keys point into the mapping
};

/// A tensor. `bytes` points into the mapping and lives as long as the GgufFile; plain types are aligned to their
/// elements there.
struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::f32;
  std::vector<int64_t>
      dims;  // 1 to 4, each >= 1, in ggml order: dims[0] is contiguous, a [rows, cols] matrix has {cols, rows}
  std::span<const std::byte> bytes;
  std::string file;  // for messages

  int64_t cols() const { return dims[0]; }
  int64_t rows() const { return dims.size() > 1 ? dims[1] : 1; }
  /// How many rows x cols matrices lie one after another (experts, heads).
  int64_t matrices() const { return (dims.size() > 2 ? dims[2] : 1) * (dims.size() > 3 ? dims[3] : 1); }
};

/// What one file holds.
struct GgufHeader {
  uint32_t version = 3;
  uint64_t alignment = 32;  // of the tensors' data in the file
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // as listed in the file
};

/// Reads a whole file in memory and checks everything: counts and lengths against its size, types, dimensions, and that
/// the tensors' data is aligned, inside the file and without overlap. `file` names it in messages. Throws Error. The
/// result points into `bytes`.
GgufHeader parse_gguf(std::span<const std::byte> bytes, const std::string& file);

/// A memory-mapped GGUF file. Of a file in parts (NAME-00001-of-00003.gguf, ...) any part may be given; all are opened.
class GgufFile {
 public:
  /// Throws Error naming the file: as parse_gguf, and when a part is missing, its keys split.no, split.count or
  /// split.tensors.count do not fit, or two parts hold the same tensor.
  explicit GgufFile(const fs::path& path);
  /// The file, or the first of its parts.
  const fs::path& path() const { return parts_[0].path(); }
  /// The mappings of all parts.
  std::span<const MappedFile> parts() const { return parts_; }
  /// Of the first part, which holds all but the keys of the split.
  const GgufMetadata& metadata() const { return metadata_; }
  /// Of all parts, as listed.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  /// Null when there is none.
  const GgufTensor* find(std::string_view name) const;
  /// Throws Error naming file and tensor when there is none.
  const GgufTensor& get(std::string_view name) const;

 private:
  GgufMetadata open_part(const fs::path& path);

  std::vector<MappedFile> parts_;
  GgufMetadata metadata_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string_view, size_t> by_name_;  // keys point into tensors_
};

/// The GGUF file that `path` means: a file that begins as one, or the only one in a folder without a checkpoint of
/// another kind; of a file in parts the first. None when there is none. Throws Error when there are several.
std::optional<fs::path> find_gguf(const fs::path& path);

}  // namespace sluice
