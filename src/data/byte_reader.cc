#include "data/byte_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace sluice {
namespace {

constexpr size_t kInputBytes = size_t{1} << 18;

class PlainReader : public ByteReader {
 public:
  explicit PlainReader(const fs::path& path) : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) fail("{}: cannot open: {}", path.string(), std::strerror(errno));
  }
  ~PlainReader() override { close(fd_); }
  PlainReader(const PlainReader&) = delete;
  PlainReader& operator=(const PlainReader&) = delete;

  size_t read(std::span<char> out) override {
    while (true) {
      const ssize_t n = ::read(fd_, out.data(), out.size());
      if (n >= 0) {
        bytes_ += n;
        return static_cast<size_t>(n);
      }
      if (errno != EINTR) fail("{}: cannot read: {}", path_.string(), std::strerror(errno));
    }
  }
  int64_t file_bytes() const override { return bytes_; }

 private:
  fs::path path_;
  int fd_;
  int64_t bytes_ = 0;
};

class GzipReader : public ByteReader {
 public:
  explicit GzipReader(const fs::path& path) : name_(path.string()), file_(path), input_(kInputBytes) {
    check(inflateInit2(&stream_, 16 + MAX_WBITS) == Z_OK, "GzipReader: inflateInit2 failed");
  }
  ~GzipReader() override { inflateEnd(&stream_); }
  GzipReader(const GzipReader&) = delete;
  GzipReader& operator=(const GzipReader&) = delete;

  size_t read(std::span<char> out) override {
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(std::min<size_t>(out.size(), 1u << 30));
    const uInt room = stream_.avail_out;
    while (stream_.avail_out == room) {
      if (stream_.avail_in == 0) {
        stream_.next_in = reinterpret_cast<Bytef*>(input_.data());
        stream_.avail_in = static_cast<uInt>(file_.read(input_));
      }
      const bool at_end = stream_.avail_in == 0;
      if (at_end && !inside_) return 0;
      inside_ = true;
      const int result = inflate(&stream_, Z_NO_FLUSH);  // at the end too: it may hold output back
      if (result == Z_STREAM_END) {
        inside_ = false;  // another member may follow
        inflateReset(&stream_);
      } else if (at_end && result == Z_BUF_ERROR) {
        fail("{}: gzip data: expected more bytes, found the end of the file (truncated)", name_);
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        fail("{}: gzip data: {} before byte {}", name_, stream_.msg ? stream_.msg : "corrupt", file_.file_bytes());
      }
    }
    return room - stream_.avail_out;
  }
  int64_t file_bytes() const override { return file_.file_bytes(); }

 private:
  std::string name_;
  PlainReader file_;
  std::vector<char> input_;
  z_stream stream_{};
  bool inside_ = true;  // an empty file is not gzip data
};

class ZstdReader : public ByteReader {
 public:
  explicit ZstdReader(const fs::path& path)
      : name_(path.string()), file_(path), input_(kInputBytes), stream_(ZSTD_createDStream()) {
    check(stream_ != nullptr, "ZstdReader: out of memory");
  }
  ~ZstdReader() override { ZSTD_freeDStream(stream_); }
  ZstdReader(const ZstdReader&) = delete;
  ZstdReader& operator=(const ZstdReader&) = delete;

  size_t read(std::span<char> out) override {
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    while (to.pos == 0) {
      if (from_.pos == from_.size) from_ = {input_.data(), file_.read(input_), 0};
      const bool at_end = from_.size == 0;
      if (at_end && !inside_) return 0;
      const size_t result = ZSTD_decompressStream(stream_, &to, &from_);  // at the end too: it may hold output back
      if (ZSTD_isError(result)) {
        fail("{}: zstd data: {} before byte {}", name_, ZSTD_getErrorName(result), file_.file_bytes());
      }
      inside_ = result != 0;
      if (at_end && inside_ && to.pos == 0) {
        fail("{}: zstd data: expected more bytes, found the end of the file (truncated)", name_);
      }
    }
    return to.pos;
  }
  int64_t file_bytes() const override { return file_.file_bytes(); }

 private:
  std::string name_;
  PlainReader file_;
  std::vector<char> input_;
  ZSTD_DStream* stream_;
  ZSTD_inBuffer from_{nullptr, 0, 0};
  bool inside_ = true;  // of a frame; an empty file is not zstd data
};

}  // namespace

std::unique_ptr<ByteReader> ByteReader::open(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    fail("{}: expected a regular file{}", path.string(), error ? ": " + error.message() : "");
  }
  const auto extension = path.extension();
  if (extension == ".gz") return std::make_unique<GzipReader>(path);
  if (extension == ".zst") return std::make_unique<ZstdReader>(path);
  return std::make_unique<PlainReader>(path);
}

}  // namespace sluice
