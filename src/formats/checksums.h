// checksums.json of a checkpoint folder: finds truncated and corrupted files before they are used.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"

namespace sluice {

/// A file of a folder: its name relative to the folder ('/' between parts), size and CRC32 (zlib's).
struct FileSum {
  std::string name;
  uint64_t size = 0;
  uint32_t crc32 = 0;
};

/// CRC32 (zlib's) of `bytes` after data whose CRC32 is `crc` (0 at the start).
uint32_t crc32_update(uint32_t crc, std::span<const std::byte> bytes);

/// Reads the file `name` of `folder`. Throws Error naming it.
FileSum sum_file(const fs::path& folder, const std::string& name);

/// Writes `checksums.json`: {"files": {name: {"size": bytes, "crc32": "8 hex digits"}}}. Throws Error.
void write_checksums(const fs::path& folder, const std::vector<FileSum>& files);

/// Compares every file listed in `checksums.json`. Throws Error that names the first file that is missing, has another
/// size or another CRC32, or `checksums.json` when that is missing or malformed. Reads all files once.
void verify_checksums(const fs::path& folder);

}  // namespace sluice
