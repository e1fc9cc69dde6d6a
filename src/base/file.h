// Files: read-only mappings and writes that survive a crash.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace sluice {

namespace fs = std::filesystem;

/// A read-only memory mapping of a whole file. Throws Error naming the file when it cannot be opened or mapped.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const fs::path& path() const { return path_; }
  bool contains(const void* p) const { return p >= data_ && p < data_ + size_; }
  /// Takes the memory that holds the whole pages of `part` away from the process; they are read again when used. Does
  /// nothing where `part` does not lie in this mapping.
  void release(std::span<const std::byte> part) const;

 private:
  fs::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// The whole file as a string. Throws Error naming the file.
std::string read_file(const fs::path& path);

/// A new file that appears under `path` only when commit() returns: bytes go to a temporary file beside it, commit()
/// does write, fsync(file), rename, fsync(directory). Destroyed without commit(), it leaves nothing. Every failure
/// (full disk too) throws Error naming the file; before the rename, what was under `path` is then untouched. Devices,
/// pipes and folders under that name are refused.
class AtomicFile {
 public:
  explicit AtomicFile(const fs::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  void commit();

 private:
  fs::path path_, temporary_;
  int fd_ = -1;
};

/// AtomicFile in one call.
void write_file(const fs::path& path, std::string_view text);

/// Keeps other processes that ask for the same lock out of a folder, until destroyed or the process ends.
class FolderLock {
 public:
  /// Throws Error naming the folder when another process (or object) holds it.
  explicit FolderLock(const fs::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_;
};

/// fsync of a directory, so that renames in it survive a power cut.
void sync_directory(const fs::path& directory);

}  // namespace sluice
