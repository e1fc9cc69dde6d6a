#include "formats/checksums.h"

#include <gtest/gtest.h>

#include "../base/temp_dir.h"

namespace sluice {
namespace {

TEST(Checksums, KnownValue) {
  const std::string text = "123456789";
  const auto bytes = std::as_bytes(std::span(text));
  EXPECT_EQ(crc32_update(0, bytes), 0xcbf43926u);
  EXPECT_EQ(crc32_update(crc32_update(0, bytes.first(4)), bytes.subspan(4)), 0xcbf43926u);
  EXPECT_EQ(crc32_update(0, {}), 0u);
}

TEST(Checksums, FindsMissingTruncatedAndCorruptedFiles) {
  const TempDir dir;
  fs::create_directory(dir / "trainer");
  write_file(dir / "model.safetensors", "123456789");
  write_file(dir / "trainer/state", std::string(100000, 'x'));
  write_file(dir / "empty", "");
  const auto verify = [&] { return error_of([&] { verify_checksums(dir.path()); }); };
  EXPECT_NE(verify().find("checksums.json"), std::string::npos);
  write_checksums(dir.path(), {sum_file(dir.path(), "model.safetensors"), sum_file(dir.path(), "trainer/state"),
                               sum_file(dir.path(), "empty")});
  EXPECT_EQ(verify(), "");
  EXPECT_NE(read_file(dir / "checksums.json").find(R"("crc32": "cbf43926")"), std::string::npos);

  write_file(dir / "model.safetensors", "123456788");
  EXPECT_NE(verify().find("model.safetensors: corrupted: expected CRC32 cbf43926"), std::string::npos);
  write_file(dir / "model.safetensors", "12345678");
  EXPECT_NE(verify().find("model.safetensors: truncated: expected 9 bytes, found 8"), std::string::npos);
  write_file(dir / "model.safetensors", "1234567890");
  EXPECT_NE(verify().find("model.safetensors: corrupted: expected 9 bytes, found 10"), std::string::npos);
  write_file(dir / "model.safetensors", "123456789");
  EXPECT_EQ(verify(), "");
  fs::remove(dir / "trainer/state");
  EXPECT_NE(verify().find("trainer/state: cannot open"), std::string::npos);
}

TEST(Checksums, RefusesMalformedLists) {
  const TempDir dir;
  write_file(dir / "a", "123456789");
  const auto verify = [&](const std::string& text) {
    write_file(dir / "checksums.json", text);
    return error_of([&] { verify_checksums(dir.path()); });
  };
  EXPECT_EQ(verify(R"({"files":{"a":{"size":9,"crc32":"cbf43926"}}})"), "");
  for (const char* bad :
       {"", "{", "[]", "{}", R"({"files":[]})", R"({"files":{"a":1}})", R"({"files":{"a":{"size":9}}})",
        R"({"files":{"a":{"size":-9,"crc32":"cbf43926"}}})", R"({"files":{"a":{"size":9,"crc32":"CBF43926"}}})",
        R"({"files":{"a":{"size":9,"crc32":"cbf4392"}}})", R"({"files":{"../a":{"size":9,"crc32":"cbf43926"}}})",
        R"({"files":{"/a":{"size":9,"crc32":"cbf43926"}}})", R"({"files":{"":{"size":9,"crc32":"cbf43926"}}})"})
    EXPECT_NE(verify(bad).find("checksums.json: "), std::string::npos) << bad;
}

}  // namespace
}  // namespace sluice
