#include "data/text_cleaner.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace sluice {
namespace {

constexpr const char* kBad = "\xef\xbf\xbd";

std::pair<std::string, Repairs> clean(std::string_view bytes, size_t step) {
  TextCleaner cleaner;
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += step) cleaner.feed(bytes.substr(i, step), out);
  cleaner.finish(out);
  return {out, cleaner.repairs()};
}

TEST(TextCleaner, KeepsCleanText) {
  const std::string text = "a\n\tb\r c é 李 👍 \xed\x9f\xbf \xf4\x8f\xbf\xbf \xc2\x80";
  for (size_t step = 1; step < 9; ++step) {
    const auto [out, repairs] = clean(text, step);
    EXPECT_EQ(out, text) << step;
    EXPECT_EQ(repairs.bad_utf8 + repairs.crlf + repairs.byte_order_marks, 0);
  }
}

TEST(TextCleaner, ReplacesIllFormedSequences) {
  // Number of U+FFFD by the Unicode standard's "maximal subpart" rule.
  const std::vector<std::pair<std::string, int>> cases{
      {"\x80", 1},         {"\xff", 1},         {"\xc0\xaf", 2},         {"\xe0\x80\x80", 3},     {"\xed\xa0\x80", 3},
      {"\xe6\x9d", 1},     {"\xf0\x9f\x91", 1}, {"\xf4\x90\x80\x80", 4}, {"\xf0\x80\x80\x80", 4}, {"\xc3", 1},
      {"\xe6\x9d\xc3", 2}, {"\xf5\x80", 2}};
  for (const auto& [bytes, count] : cases) {
    for (const std::string& tail : {std::string(), std::string("z")}) {
      std::string expected = "a";
      for (int i = 0; i < count; ++i) expected += kBad;
      for (size_t step = 1; step < 6; ++step) {
        const auto [out, repairs] = clean("a" + bytes + tail, step);
        EXPECT_EQ(out, expected + tail) << testing::PrintToString(bytes);
        EXPECT_EQ(repairs.bad_utf8, count);
      }
    }
  }
}

TEST(TextCleaner, LineEndsAndByteOrderMark) {
  for (size_t step = 1; step < 12; ++step) {
    const auto [out, repairs] = clean(
        "\xef\xbb\xbf"
        "a\r\nb\r\r\nc\rd\xef\xbb\xbf\r",
        step);
    EXPECT_EQ(out, "a\nb\r\nc\rd\xef\xbb\xbf\r");
    EXPECT_EQ(repairs.crlf, 2);
    EXPECT_EQ(repairs.byte_order_marks, 1);
    EXPECT_EQ(repairs.bad_utf8, 0);
  }
  EXPECT_EQ(clean("", 1).first, "");
}

}  // namespace
}  // namespace sluice
