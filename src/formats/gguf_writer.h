// GGUF: streamed, atomic writing of one file, version 3 (specification 10.4). Reading: formats/gguf.h.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_set>
#include <vector>

#include "base/file.h"
#include "formats/ggml_type.h"
#include "formats/gguf.h"

namespace sluice {

/// The type in the file of a C++ type: integers of 8 to 64 bits, float, double, bool, or anything that is text.
template <class T>
constexpr GgufType gguf_type() {
  if constexpr (std::is_same_v<T, uint8_t>) {
    return GgufType::u8;
  } else if constexpr (std::is_same_v<T, int8_t>) {
    return GgufType::i8;
  } else if constexpr (std::is_same_v<T, uint16_t>) {
    return GgufType::u16;
  } else if constexpr (std::is_same_v<T, int16_t>) {
    return GgufType::i16;
  } else if constexpr (std::is_same_v<T, uint32_t>) {
    return GgufType::u32;
  } else if constexpr (std::is_same_v<T, int32_t>) {
    return GgufType::i32;
  } else if constexpr (std::is_same_v<T, float>) {
    return GgufType::f32;
  } else if constexpr (std::is_same_v<T, bool>) {
    return GgufType::boolean;
  } else if constexpr (std::is_same_v<T, uint64_t>) {
    return GgufType::u64;
  } else if constexpr (std::is_same_v<T, int64_t>) {
    return GgufType::i64;
  } else if constexpr (std::is_same_v<T, double>) {
    return GgufType::f64;
  } else {
    static_assert(std::is_convertible_v<const T&, std::string_view>, "a type that GGUF has");
    return GgufType::string;
  }
}

/// Collects the metadata of a file, in the order in which it is written.
class GgufMetadataBuilder {
 public:
  /// A value whose type in the file is that of T: mind the type of literals. Throws Bug when the key is there already,
  /// is empty or is over 65535 bytes, and for general.alignment, which is not to be changed.
  template <class T>
  GgufMetadataBuilder& add(std::string_view key, const T& value) {
    start(key, gguf_type<T>());
    put(value);
    return *this;
  }
  /// An array.
  template <class T>
  GgufMetadataBuilder& add(std::string_view key, const std::vector<T>& values) {
    start(key, GgufType::array);
    put(static_cast<uint32_t>(gguf_type<T>()));
    put(uint64_t{values.size()});
    for (const T& value : values) put(value);
    return *this;
  }
  /// Number of values, and their bytes in the file.
  uint64_t count() const { return keys_.size(); }
  const std::string& bytes() const { return bytes_; }

 private:
  void start(std::string_view key, GgufType type);
  template <class T>
  void put(const T& value) {
    if constexpr (std::is_arithmetic_v<T>) {
      bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
    } else {
      const std::string_view text = value;
      put(uint64_t{text.size()});
      bytes_ += text;
    }
  }

  std::string bytes_;
  std::unordered_set<std::string> keys_;
};

/// A tensor to be written.
struct GgufSpec {
  std::string name;
  GgmlType type = GgmlType::f32;
  std::vector<int64_t> dims;  // as in GgufTensor
  /// Bytes of its data. Throws Bug unless there are 1 to 4 dimensions >= 1, rows of whole blocks, and no overflow.
  uint64_t bytes() const;
};

/// Writes one file: first the header, then the tensors' data in pieces of any size, so no tensor need be in memory at
/// once.
class GgufWriter {
 public:
  /// Throws Error when the file cannot be written, Bug for duplicate names and for names that are empty or over 63
  /// bytes (ggml's limit).
  GgufWriter(const fs::path& path, const GgufMetadataBuilder& metadata, std::vector<GgufSpec> tensors);
  /// The order in which the data must be written.
  const std::vector<GgufSpec>& tensors() const { return tensors_; }
  /// The next piece of the tensors' bytes, which follow one another here; the file's padding is put between them.
  void write(std::span<const std::byte> bytes);
  /// Makes the file appear (AtomicFile). Throws Bug unless all data has been written.
  void commit();

 private:
  AtomicFile file_;
  std::vector<GgufSpec> tensors_;
  size_t current_ = 0;    // the tensor being written
  uint64_t written_ = 0;  // of its bytes
};

}  // namespace sluice
