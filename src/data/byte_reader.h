// Bytes of a file, decompressed while they are read.
#pragma once
#include <cstdint>
#include <memory>
#include <span>

#include "base/file.h"

namespace sluice {

/// A file read once from beginning to end in constant memory.
class ByteReader {
 public:
  /// Opens `path`; names that end in .gz and .zst are decompressed (several members or frames too). Throws Error naming
  /// the file.
  static std::unique_ptr<ByteReader> open(const fs::path& path);
  virtual ~ByteReader() = default;

  /// Reads up to out.size() >= 1 bytes; 0 only at the end. Throws Error naming the file for failed reads and for
  /// truncated or corrupt compressed data.
  virtual size_t read(std::span<char> out) = 0;
  /// Bytes of the file read so far, before decompression: for progress.
  virtual int64_t file_bytes() const = 0;
};

}  // namespace sluice
