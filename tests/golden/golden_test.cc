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

TEST(Golden, EveryFolder) {
  int folders = 0;
  for (const auto& entry : fs::directory_iterator(golden_dir())) {
    if (!entry.is_directory()) continue;
    ++folders;
    SCOPED_TRACE(entry.path().string());
    Stream s(2);
    GoldenFixture fixture(s, entry.path());
    fixture.check_all();
    std::printf("golden %-12s %s\n", entry.path().filename().c_str(), fixture.summary().c_str());
    EXPECT_GT(fixture.checks(), 0) << "nothing to check in this folder";
  }
  EXPECT_GT(folders, 0) << golden_dir() << " holds no fixture folder";
}

}  // namespace
}  // namespace sluice
