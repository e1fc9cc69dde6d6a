#include "formats/tensorboard.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/error.h"

namespace sluice {
namespace {

constexpr std::array<uint32_t, 256> make_crc32c_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ (c & 1 ? 0x82f63b78u : 0u);
    table[i] = c;
  }
  return table;
}

constexpr std::array<uint32_t, 256> kCrc32cTable = make_crc32c_table();

/// TFRecord stores rotated sums, so that data which holds sums does not disturb them.
uint32_t masked_crc32c(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

template <class T>
void append_fixed(std::string& out, T value) {  // little-endian
  for (size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>((value >> (8 * i)) & 0xff);
}

// Protobuf wire format: key = field number << 3 | type; types 0 varint, 1 fixed 64, 2 length-delimited, 5 fixed 32.
void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7f) | 0x80);
  out += static_cast<char>(value);
}

void append_bytes(std::string& out, int field, std::string_view bytes) {
  append_varint(out, static_cast<uint64_t>(field) << 3 | 2);
  append_varint(out, bytes.size());
  out += bytes;
}

/// The start of an `Event`: double wall_time = 1; int64 step = 2.
std::string begin_event(int64_t step) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  std::string event = "\x09";
  append_fixed(event, std::bit_cast<uint64_t>(std::chrono::duration<double>(now).count()));
  event += '\x10';
  append_varint(event, static_cast<uint64_t>(step));
  return event;
}

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "localhost";
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t c = 0xffffffffu;
  for (const char b : bytes) c = (c >> 8) ^ kCrc32cTable[(c ^ static_cast<unsigned char>(b)) & 0xff];
  return ~c;
}

TensorboardWriter::TensorboardWriter(const fs::path& folder, int64_t first_step) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("{}: cannot create: {}", folder.string(), error.message());
  // TensorBoard reads the files of a folder in the order of their names: the time comes first, in nanoseconds because
  // a run may resume within a second.
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  path_ = folder / fmt::format("events.out.tfevents.{:010}.{}.{}.{:09}", nanoseconds / 1'000'000'000, host_name(),
                               getpid(), nanoseconds % 1'000'000'000);
  file_.reset(std::fopen(path_.c_str(), "wbx"));
  if (!file_) fail("{}: cannot create: {}", path_.string(), std::strerror(errno));
  std::string version = begin_event(0);
  append_bytes(version, 3, "brain.Event:2");  // string file_version = 3
  write_record(version);
  if (first_step > 0) {
    std::string start = begin_event(first_step);
    append_bytes(start, 7, "\x08\x01");  // SessionLog session_log = 7: SessionStatus status = 1: START
    write_record(start);
  }
}

void TensorboardWriter::add_scalars(int64_t step, std::span<const std::pair<std::string, float>> scalars) {
  std::string summary;
  for (const auto& [tag, value] : scalars) {
    std::string v;
    append_bytes(v, 1, tag);  // string tag = 1
    v += '\x15';              // float simple_value = 2
    append_fixed(v, std::bit_cast<uint32_t>(value));
    append_bytes(summary, 1, v);  // repeated Value value = 1
  }
  std::string event = begin_event(step);
  append_bytes(event, 5, summary);  // Summary summary = 5
  write_record(event);
}

void TensorboardWriter::write_record(std::string_view event) {
  std::string record;
  append_fixed(record, static_cast<uint64_t>(event.size()));
  append_fixed(record, masked_crc32c(record));
  record += event;
  append_fixed(record, masked_crc32c(event));
  if (std::fwrite(record.data(), 1, record.size(), file_.get()) != record.size() || std::fflush(file_.get()) != 0)
    fail("{}: cannot write: {}", path_.string(), std::strerror(errno));
}

}  // namespace sluice
