// Large reads past the page cache, which they would fill with bytes that are not asked for again.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/file.h"

namespace sluice {

/// A file open for reading with O_DIRECT; where its file system has no such thing, pages are dropped after each read.
/// Threads may read at the same time.
class DirectFile {
 public:
  /// Offsets, lengths and memory of direct reads are multiples of this.
  static constexpr size_t kAlign = 4096;
  /// Bytes of buffer that a read of `count` bytes wants.
  static constexpr size_t buffer_bytes(size_t count) { return (count + kAlign - 1) / kAlign * kAlign + kAlign; }

  /// Throws Error naming the file when it cannot be opened.
  explicit DirectFile(const fs::path& path);
  ~DirectFile();
  DirectFile(DirectFile&& other) noexcept;
  DirectFile& operator=(DirectFile&&) = delete;

  const fs::path& path() const { return path_; }
  uint64_t size() const { return size_; }

  /// Bytes [offset, offset + count), which lie in `buffer`: of buffer_bytes(count), aligned to kAlign. Throws Error
  /// naming the file when it cannot be read or ends before them.
  std::span<const std::byte> read(uint64_t offset, size_t count, std::span<std::byte> buffer) const;

 private:
  fs::path path_;
  int fd_ = -1;
  bool is_direct_ = false;
  uint64_t size_ = 0;  // when opened
};

}  // namespace sluice
