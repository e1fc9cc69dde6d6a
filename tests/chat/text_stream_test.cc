#include "chat/text_stream.h"

#include <gtest/gtest.h>

#include "byte_tokenizer.h"

namespace sluice {
namespace {

/// The pieces a stream gives for the bytes of `text`, one token each, then its end.
std::vector<std::string> pieces(TextStream& stream, std::string_view text) {
  std::vector<std::string> out;
  for (const char c : text) out.push_back(stream.push(static_cast<uint8_t>(c)));
  out.push_back(stream.finish());
  return out;
}

std::string joined(const std::vector<std::string>& parts) {
  std::string all;
  for (const std::string& p : parts) all += p;
  return all;
}

using Strings = std::vector<std::string>;

TEST(Utf8Stream, CharactersComeWhole) {
  TextStream stream(tokenizer(), {});
  EXPECT_EQ(pieces(stream, "a\xC3\xA9\xE6\x98\xA5\xF0\x9F\x8C\xB8z"),
            (Strings{"a", "", "\xC3\xA9", "", "", "\xE6\x98\xA5", "", "", "", "\xF0\x9F\x8C\xB8", "z", ""}));
}

TEST(Utf8Stream, IllFormedBytesBecomeReplacementCharacters) {
  const std::string r = "\xEF\xBF\xBD";
  // The examples of the Unicode standard, tables 3-8 to 3-11, and the ends of the ranges.
  const std::pair<std::string, std::string> cases[] = {
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", r + r + r + r + r + r + r + r + "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", r + r + r + r + r + r + r + r + "A"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", r + r + r + r + r + "A" + r + r + "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", r + r + r + r + "A"},
      {"\xF4\x8F\xBF\xBF\xED\x9F\xBF\xC2\x80", "\xF4\x8F\xBF\xBF\xED\x9F\xBF\xC2\x80"},
      {"x\xE6\x98", "x" + r},
  };
  for (const auto& [bytes, expected] : cases) {
    Utf8Stream whole, single;
    std::string by_bytes;
    for (const char c : bytes) by_bytes += single.push(std::string_view(&c, 1));
    by_bytes += single.finish();
    std::string at_once = whole.push(bytes);
    at_once += whole.finish();
    EXPECT_EQ(by_bytes, expected);
    EXPECT_EQ(at_once, expected);
  }
}

TEST(TextStream, StopStringsEndTheText) {
  TextStream stream(tokenizer(), {"\n\n", "END"});
  EXPECT_EQ(pieces(stream, "ab\nc\n\nd"), (Strings{"a", "b", "", "\nc", "", "", "", ""}));
  EXPECT_TRUE(stream.stopped());
}

TEST(TextStream, WhatMayBecomeAStopIsHeldBackAndReleased) {
  TextStream stream(tokenizer(), {"END", "aab"});
  EXPECT_EQ(joined(pieces(stream, "EN ENE ENDE")), "EN ENE ");
  TextStream overlapping(tokenizer(), {"aab"});
  EXPECT_EQ(pieces(overlapping, "aaaab"), (Strings{"", "", "a", "a", "", ""}));
  TextStream open(tokenizer(), {"END"});
  EXPECT_EQ(pieces(open, "xEN"), (Strings{"x", "", "", "EN"}));
  EXPECT_FALSE(open.stopped());
}

TEST(TextStream, TheFirstStopInTheTextWins) {
  TextStream stream(tokenizer(), {"cd", "bcx", ""});
  EXPECT_EQ(joined(pieces(stream, "abcde")), "ab");
  TextStream nested(tokenizer(), {"bcd", "c"});
  EXPECT_EQ(joined(pieces(nested, "abcd")), "ab");
}

TEST(TextStream, StopsOfSeveralBytesPerCharacter) {
  TextStream stream(tokenizer(), {"\xE3\x80\x82"});
  EXPECT_EQ(joined(pieces(stream, "\xE6\x98\xA5\xE3\x80\x81\xE6\x98\xA5\xE3\x80\x82\xE6\x98\xA5")),
            "\xE6\x98\xA5\xE3\x80\x81\xE6\x98\xA5");
  EXPECT_TRUE(stream.stopped());
}

TEST(TextStream, SpecialTokensHaveNoText) {
  TextStream stream(tokenizer(), {});
  EXPECT_EQ(stream.push('a') + stream.push(kSpecial) + stream.push('b') + stream.push(9999) + stream.finish(), "ab");
}

}  // namespace
}  // namespace sluice
