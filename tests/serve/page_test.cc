#include "serve/page.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

namespace sluice {
namespace {

std::string read_dist(const std::string& name) {
  std::ifstream in(std::filesystem::path(SLUICE_SOURCE_DIR) / "web/dist" / name, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Page, FilesAreThoseOfTheBundleByteForByte) {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(SLUICE_SOURCE_DIR) / "web/dist")) {
    const std::string name = entry.path().filename();
    const std::string stem = entry.path().stem();
    const std::string path = name == "index.html" ? "/" : entry.path().extension() == ".html" ? "/" + stem : "/" + name;
    const PageFile* file = find_page_file(path);
    ASSERT_NE(file, nullptr) << path;
    EXPECT_EQ(file->content, read_dist(name)) << path;
    ++count;
  }
  EXPECT_EQ(page_files().size(), count);
}

TEST(Page, TypesFollowTheExtension) {
  ASSERT_NE(find_page_file("/"), nullptr);
  EXPECT_EQ(find_page_file("/")->mime_type, "text/html; charset=utf-8");
  ASSERT_NE(find_page_file("/monitor"), nullptr);
  EXPECT_EQ(find_page_file("/monitor")->mime_type, "text/html; charset=utf-8");
  ASSERT_NE(find_page_file("/chat.js"), nullptr);
  EXPECT_EQ(find_page_file("/chat.js")->mime_type, "text/javascript; charset=utf-8");
}

TEST(Page, HasNoOtherPaths) {
  for (const char* path :
       {"", "/index.html", "/index", "/monitor.html", "/../CMakeLists.txt", "/chat.js/", "chat.js"}) {
    EXPECT_EQ(find_page_file(path), nullptr) << path;
  }
}

TEST(Page, TagsAreQuotedAndDiffer) {
  std::set<std::string_view> tags;
  for (const PageFile& file : page_files()) {
    ASSERT_EQ(file.etag.size(), 18u) << file.path;
    EXPECT_TRUE(file.etag.front() == '"' && file.etag.back() == '"') << file.etag;
    tags.insert(file.etag);
  }
  EXPECT_EQ(tags.size(), page_files().size());
}

}  // namespace
}  // namespace sluice
