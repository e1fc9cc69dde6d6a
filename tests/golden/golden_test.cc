// Every fixture folder under SLUICE_GOLDEN_DIR (default: the ones beside this file) against values of an independent
// implementation. What is checked is decided by the keys in expected*.safetensors, never by the folder's name.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "golden/fixture.h"

namespace sluice {
namespace {

fs::path golden_dir() {
  const char* dir = std::getenv("SLUICE_GOLDEN_DIR");
  return dir ? fs::path(dir) : fs::path(SLUICE_SOURCE_DIR) / "tests/golden/hf";
}

void check_folders(Stream& s) {
  int folders = 0;
  for (const auto& entry : fs::directory_iterator(golden_dir())) {
    if (!entry.is_directory()) continue;
    ++folders;
    SCOPED_TRACE(entry.path().string());
    GoldenFixture fixture(s, entry.path());
    fixture.check_all();
    std::printf("golden %-12s %s\n", entry.path().filename().c_str(), fixture.summary().c_str());
    EXPECT_GT(fixture.checks(), 0) << "nothing to check in this folder";
  }
  EXPECT_GT(folders, 0) << golden_dir() << " holds no fixture folder";
}

TEST(Golden, EveryFolder) {
  Stream s(2);
  check_folders(s);
}

TEST(Golden, EveryFolderOnCuda) {
  const Device gpu{Device::Kind::cuda, 0};
  if (const std::string why = why_unusable(gpu); !why.empty()) GTEST_SKIP() << why;
  Stream s(gpu, 1);
  check_folders(s);
}

}  // namespace
}  // namespace sluice
