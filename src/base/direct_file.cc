#include "base/direct_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "base/error.h"

namespace sluice {
namespace {

/// A file system may accept the flag and refuse the reads.
bool can_read_directly(int fd) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  const std::unique_ptr<void, Free> block(std::aligned_alloc(DirectFile::kAlign, DirectFile::kAlign));
  return block && pread(fd, block.get(), DirectFile::kAlign, 0) >= 0;
}

}  // namespace

DirectFile::DirectFile(const fs::path& path) : path_(path) {
  fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
  is_direct_ = fd_ >= 0 && can_read_directly(fd_);
  if (!is_direct_) {
    if (fd_ >= 0) close(fd_);
    fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  }
  struct stat st {};
  if (fd_ < 0 || fstat(fd_, &st) != 0) fail("{}: cannot open: {}", path.string(), std::strerror(errno));
  size_ = static_cast<uint64_t>(st.st_size);
}

DirectFile::~DirectFile() {
  if (fd_ >= 0) close(fd_);
}

DirectFile::DirectFile(DirectFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      is_direct_(other.is_direct_),
      size_(other.size_) {}

std::span<const std::byte> DirectFile::read(uint64_t offset, size_t count, std::span<std::byte> buffer) const {
  const uint64_t begin = offset / kAlign * kAlign;
  const size_t skip = static_cast<size_t>(offset - begin), want = skip + count;
  const size_t length = (want + kAlign - 1) / kAlign * kAlign;
  check(buffer.size() >= length && reinterpret_cast<uintptr_t>(buffer.data()) % kAlign == 0,
        "DirectFile::read: expected an aligned buffer of buffer_bytes()");
  for (size_t done = 0; done < want;) {
    const ssize_t n = pread(fd_, buffer.data() + done, length - done, static_cast<off_t>(begin + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("{}: cannot read: {}", path_.string(), std::strerror(errno));
    const size_t end = done + static_cast<size_t>(n);
    // A direct read goes on at a whole block; one that ends inside the first ends with the file.
    const size_t next = is_direct_ && end < want ? end / kAlign * kAlign : end;
    if (next == done) fail("{}: expected {} bytes, found an end at {}", path_.string(), offset + count, begin + end);
    done = next;
  }
  if (!is_direct_) posix_fadvise(fd_, static_cast<off_t>(begin), static_cast<off_t>(length), POSIX_FADV_DONTNEED);
  return std::span<const std::byte>(buffer).subspan(skip, count);
}

}  // namespace sluice
