#include "base/direct_file.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "temp_dir.h"

namespace sluice {
namespace {

struct Free {
  void operator()(void* p) const { std::free(p); }
};

TEST(DirectFile, ReadsAnyRange) {
  const TempDir dir;
  std::string text;
  for (int i = 0; text.size() < 30000; ++i) text += std::to_string(i);
  write_file(dir / "a", text);
  const DirectFile file(dir / "a");
  EXPECT_EQ(file.size(), text.size());
  const size_t n = DirectFile::buffer_bytes(text.size());
  const std::unique_ptr<void, Free> memory(std::aligned_alloc(DirectFile::kAlign, n));
  const std::span<std::byte> buffer(static_cast<std::byte*>(memory.get()), n);
  for (const size_t offset : {size_t{0}, size_t{1}, size_t{4095}, size_t{4096}, size_t{12345}, text.size() - 1})
    for (const size_t count : {size_t{1}, size_t{4096}, size_t{9000}, text.size()}) {
      const size_t most = std::min(count, text.size() - offset);
      const auto bytes = file.read(offset, most, buffer);
      EXPECT_TRUE(bytes.size() == most && std::memcmp(bytes.data(), text.data() + offset, most) == 0);
      if (most < count) {
        EXPECT_THROW(file.read(offset, most + 1, buffer), Error);
      }
    }
  EXPECT_THROW(file.read(1 << 20, 1, buffer), Error);
}

TEST(DirectFile, NeedsAFile) {
  const TempDir dir;
  EXPECT_THROW(DirectFile(dir / "none"), Error);
}

}  // namespace
}  // namespace sluice
