#include "cli/disk_rate.h"

#include <algorithm>
#include <atomic>
#include <fstream>
#include <string>

#include "base/arena.h"
#include "base/direct_file.h"
#include "base/thread_pool.h"
#include "cli/bench.h"

namespace sluice {
namespace {

constexpr size_t kRead = size_t{1} << 20;
constexpr uint64_t kMostBytes = uint64_t{4} << 30;

}  // namespace

double disk_rate(const fs::path& path, int readers) {
  const DirectFile file(path);
  const int64_t reads = static_cast<int64_t>(std::min(file.size(), kMostBytes) / kRead);
  if (reads == 0) return 0;
  constexpr int64_t kBuffer = static_cast<int64_t>(DirectFile::buffer_bytes(kRead));
  Arena memory(static_cast<size_t>(kBuffer * readers));  // begins at a page
  std::byte* buffers = static_cast<std::byte*>(memory.alloc(DType::u8, {kBuffer * readers}).data);
  ThreadPool pool(readers);
  const double seconds = seconds_of([&] {
    pool.run(reads, [&](int64_t i, int thread) {
      file.read(static_cast<uint64_t>(i) * kRead, kRead, {buffers + thread * kBuffer, static_cast<size_t>(kBuffer)});
    });
  });
  return static_cast<double>(reads) * static_cast<double>(kRead) / seconds;
}

std::optional<double> process_bytes_read() {
  std::ifstream io("/proc/self/io");
  for (std::string key, value; io >> key >> value;)
    if (key == "read_bytes:") return std::stod(value);
  return std::nullopt;
}

}  // namespace sluice
