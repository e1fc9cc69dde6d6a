// safetensors: memory-mapped reading and streamed, atomic writing (specification 10.3).
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"
#include "base/tensor.h"
#include "formats/checksums.h"

namespace sluice {

/// Element types of the format. Some have no DType: such tensors can be listed and copied, not computed with.
enum class StDType : uint8_t {
  boolean,
  u8,
  i8,
  u16,
  i16,
  f16,
  bf16,
  u32,
  i32,
  f32,
  u64,
  i64,
  f64,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0
};
constexpr size_t kNumStDTypes = 16;

/// The name in the header: "F32", "BF16", "F8_E4M3", ...
std::string_view st_dtype_name(StDType dtype);
/// The type of such a name, if it is one of these.
std::optional<StDType> parse_st_dtype(std::string_view name);
/// Bytes of one element.
size_t st_dtype_size(StDType dtype);
/// The DType with the same elements, where there is one.
std::optional<DType> to_dtype(StDType dtype);
StDType from_dtype(DType dtype);

/// One tensor of a file. `bytes` (little-endian, row-major) points into the mapping and lives as long as the
/// SafetensorsFile or SafetensorsFolder it came from.
struct SafetensorsEntry {
  std::string name;
  StDType dtype = StDType::f32;
  std::vector<int64_t> shape;  // [] is a scalar; dimensions >= 0
  std::span<const std::byte> bytes;
  std::string file;  // for messages

  /// Product of the shape.
  int64_t size() const { return static_cast<int64_t>(bytes.size() / st_dtype_size(dtype)); }
  /// View of the mapped bytes (read-only memory: writing through it faults). Rank 0 becomes shape (1). Throws Error
  /// when the dtype has no DType, the rank is over 4 or the data is not aligned to its element (files written by others
  /// may do that; read_f32 reads them).
  Tensor tensor() const;
  /// Converts the elements [begin, begin + out.size()) to float32, exactly where float32 can (F64 is rounded). Any
  /// alignment. Throws Error unless the dtype is F32, F16, BF16, F64 or F8_E4M3.
  void read_f32(int64_t begin, std::span<float> out) const;
  /// The whole tensor as float32.
  std::vector<float> read_f32() const;
};

/// What a file holds.
struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;        // in the order of their data
  std::map<std::string, std::string> metadata;  // "__metadata__"
};

/// Reads the header of a whole file in memory and checks everything: length, JSON, dtypes, shapes, offsets inside the
/// file, no hole, no overlap, no duplicate. `file` names it in messages. Throws Error. Entries point into `bytes`.
SafetensorsHeader parse_safetensors(std::span<const std::byte> bytes, const std::string& file);

/// One memory-mapped file.
class SafetensorsFile {
 public:
  /// Throws Error (as parse_safetensors) when the file is missing or malformed.
  explicit SafetensorsFile(const fs::path& path);
  const fs::path& path() const { return file_.path(); }
  /// In the order of their data.
  const std::vector<SafetensorsEntry>& entries() const { return header_.entries; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  /// Null when there is none.
  const SafetensorsEntry* find(std::string_view name) const;
  /// Throws Error naming file and tensor when there is none.
  const SafetensorsEntry& get(std::string_view name) const;

 private:
  MappedFile file_;
  SafetensorsHeader header_;
  std::unordered_map<std::string_view, size_t> by_name_;  // keys point into header_
};

/// The tensors of a checkpoint folder: `model.safetensors`, or else the shards named by `model.safetensors.index.json`
/// (or another `stem` than "model"). A shard's tensors that the index does not name are left out.
class SafetensorsFolder {
 public:
  /// Throws Error naming the file: neither exists, a shard is missing or malformed or lies outside the folder, or a
  /// tensor is not in the shard the index names.
  explicit SafetensorsFolder(const fs::path& folder, const std::string& stem = "model");
  const fs::path& path() const { return folder_; }
  /// All tensors, in the order of their names.
  const std::vector<const SafetensorsEntry*>& entries() const { return entries_; }
  /// Null when there is none.
  const SafetensorsEntry* find(std::string_view name) const;
  /// Throws Error naming folder and tensor when there is none.
  const SafetensorsEntry& get(std::string_view name) const;

 private:
  void open_shards(const fs::path& index);

  fs::path folder_;
  std::vector<SafetensorsFile> files_;
  std::vector<const SafetensorsEntry*> entries_;
};

/// A tensor to be written.
struct SafetensorsSpec {
  std::string name;
  StDType dtype = StDType::f32;
  std::vector<int64_t> shape;
  /// Bytes of its data. Throws Bug when a dimension is negative or the size overflows.
  uint64_t bytes() const;
};

/// Writes one file: first the header, then the data in pieces of any size, so no tensor need be in memory at once. The
/// data starts 64-byte aligned; `__metadata__` is {"format":"pt"}, which transformers asks for.
class SafetensorsWriter {
 public:
  /// Puts larger element types first, otherwise in the order given, so that every tensor is aligned to its elements.
  /// Throws Error when the file cannot be written, Bug for duplicate names.
  SafetensorsWriter(const fs::path& path, std::vector<SafetensorsSpec> tensors);
  /// The order in which the data must be written.
  const std::vector<SafetensorsSpec>& tensors() const { return tensors_; }
  /// The next piece of the data.
  void write(std::span<const std::byte> bytes);
  /// Bytes of data written so far.
  uint64_t written() const { return written_; }
  /// Makes the file appear (AtomicFile). Throws Bug unless all data has been written. Returns name, size and CRC32 of
  /// the file, for checksums.json.
  FileSum commit();

 private:
  void put(std::span<const std::byte> bytes);

  AtomicFile file_;
  FileSum sum_;
  std::vector<SafetensorsSpec> tensors_;
  uint64_t data_bytes_ = 0, written_ = 0;
};

/// Supplies one tensor's data: calls write() until all its bytes are written.
using SafetensorsSource = std::function<void(const SafetensorsSpec&, SafetensorsWriter&)>;

/// A whole file. Throws as SafetensorsWriter.
FileSum write_safetensors(const fs::path& path, std::vector<SafetensorsSpec> tensors, const SafetensorsSource& source);

/// Which of `count` files of a folder, from 0: `STEM.safetensors` where there is one, else `STEM-00001-of-0000N...`.
std::string shard_name(const std::string& stem, size_t index, size_t count);

/// Writes `STEM.safetensors.index.json`: the file of each tensor, and the bytes of all. Throws Error.
FileSum write_safetensors_index(const fs::path& folder, const std::string& stem,
                                const std::map<std::string, std::string>& file_of, uint64_t total_bytes);

/// Writes `tensors` to a folder that exists: `model.safetensors` when they fit in `max_shard_bytes` of data, otherwise
/// `model-00001-of-0000N.safetensors` ... and the index (a tensor is never split). Returns what was written. Throws as
/// SafetensorsWriter. A folder that held another checkpoint keeps its other files: write to a new one.
std::vector<FileSum> write_safetensors_folder(const fs::path& folder, const std::vector<SafetensorsSpec>& tensors,
                                              uint64_t max_shard_bytes, const SafetensorsSource& source);

}  // namespace sluice
