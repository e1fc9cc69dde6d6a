#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/rng.h"
#include "tiny_tokenizer.h"
#include "tokenizer/byte_level.h"

namespace sluice {
namespace {

TEST(Tokenizer, AnyBytesSurvive) {
  const Tokenizer tokenizer = tiny_tokenizer();
  Rng rng(1);
  const std::vector<std::string> atoms = {
      "a",    "truth ", " ",        "\n",           "月光", "\xe5\xba",          "\x80",
      "\xff", "12",     "\xc3\xa9", "\xf0\x9f\x91", "\r\n", std::string(1, '\0')};
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (uint64_t n = rng.below(40); n > 0; --n)
      text += round % 2 ? std::string(1, static_cast<char>(rng.below(256))) : atoms[rng.below(atoms.size())];
    EXPECT_EQ(tokenizer.decode(encode(tokenizer, text), false), text);
    EXPECT_EQ(tokenizer.decode(encode(tokenizer, text, false), false), text);
  }
}

TEST(Tokenizer, BadBytesAreTokensOfTheirOwn) {
  const Tokenizer tokenizer = tiny_tokenizer();
  // Overlong, surrogate, over U+10FFFF, truncated, lone continuation.
  for (const std::string_view bad :
       {"\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf0\x9f\x91", "\x80", "\xfe", "\xe5"}) {
    EXPECT_EQ(utf8_length(bad), 0u);
    const std::vector<int32_t> ids = encode(tokenizer, bad);
    ASSERT_EQ(ids.size(), bad.size());
    for (size_t i = 0; i < bad.size(); ++i) EXPECT_EQ(tokenizer.token_bytes(ids[i]), bad.substr(i, 1));
  }
  // They do not change their neighbours.
  std::vector<int32_t> expected = encode(tokenizer, "It is a truth");
  const std::vector<int32_t> bad = encode(tokenizer, "\xff"), after = encode(tokenizer, " 明月");
  expected.insert(expected.end(), bad.begin(), bad.end());
  expected.insert(expected.end(), after.begin(), after.end());
  EXPECT_EQ(encode(tokenizer, "It is a truth\xff 明月"), expected);
}

TEST(Tokenizer, AddedTokensAreParsedOnlyOnDemand) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const int32_t user = tokenizer.id_of("<｜User｜>").value();
  const std::string text = "a<｜User｜>b<｜end▁of▁sentence｜>";
  const std::vector<int32_t> ids = encode(tokenizer, text);
  ASSERT_EQ(ids.size(), 4u);
  EXPECT_EQ(ids[1], user);
  EXPECT_EQ(ids[3], tokenizer.eos_id());
  EXPECT_EQ(tokenizer.decode(ids, true), "a<｜User｜>b");  // a role token is not special
  EXPECT_EQ(tokenizer.decode(ids, false), text);
  for (const int32_t id : encode(tokenizer, text, false)) EXPECT_TRUE(id > 2 && id < user);
  EXPECT_EQ(tokenizer.id_of("<｜user｜>"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(1));
  EXPECT_FALSE(tokenizer.is_special(user));
}

TEST(Tokenizer, FlagsOfAddedTokens) {
  TokenizerFile file = tiny_file();
  const auto add = [&](const char* content, bool normalized) -> AddedToken& {
    AddedToken& token = file.added_tokens.emplace_back();
    token.id = 400 + static_cast<int32_t>(file.added_tokens.size());
    token.content = content;
    token.normalized = normalized;
    return token;
  };
  const int32_t word = (add("@w", false).single_word = true, file.added_tokens.back().id);
  const int32_t left = (add("@l", true).lstrip = true, file.added_tokens.back().id);
  const int32_t right = (add("@r", true).rstrip = true, file.added_tokens.back().id);
  const int32_t longer = add("@lll", true).id;
  const Tokenizer tokenizer(file);
  const auto id = [&](std::string_view text) { return encode(tokenizer, text, false)[0]; };
  EXPECT_EQ(encode(tokenizer, ".@w."), (std::vector{id("."), word, id(".")}));
  EXPECT_NE(encode(tokenizer, ".@wx")[1], word);
  EXPECT_NE(encode(tokenizer, "é@w")[1], word);
  EXPECT_EQ(encode(tokenizer, ". \u3000@l ."), (std::vector{id("."), left, id(" "), id(".")}));
  EXPECT_EQ(encode(tokenizer, "@r \u3000@l."), (std::vector{right, left, id(".")}));
  EXPECT_EQ(encode(tokenizer, "@lll@l"), (std::vector{longer, left}));
}

TEST(Tokenizer, IdsWithoutTokensGiveNothing) {
  TokenizerFile file = tiny_file();
  file.added_tokens.push_back({4194303, "<far>", true});
  const Tokenizer tokenizer(file);
  EXPECT_EQ(tokenizer.vocab_size(), 4194304);
  EXPECT_EQ(tokenizer.token_bytes(4194303), "<far>");
  EXPECT_EQ(encode(tokenizer, "<far>"), std::vector{4194303});
  for (const int32_t id : {-1, 400, 1 << 20, 4194304, INT32_MAX, INT32_MIN}) EXPECT_EQ(tokenizer.token_bytes(id), "");
  EXPECT_EQ(tokenizer.decode(std::vector{INT32_MIN, INT32_MAX, 5000}, false), "");
}

TEST(Tokenizer, MissingBytesAndTokensAreErrors) {
  TokenizerFile file = tiny_file(275);
  std::erase_if(file.vocab, [](const auto& entry) { return entry.first == "!"; });
  const Tokenizer tokenizer(file);
  EXPECT_EQ(error_of([&] { encode(tokenizer, "a!"); }),
            "tokenizer.json: expected a token for every byte of the text, found none for 0x21");
  EXPECT_EQ(encode(tokenizer, "ab").size(), 2u);
  TokenizerConfig config;
  config.eos_token = "<none>";
  EXPECT_NE(error_of([&] { Tokenizer(file, config); }).find("eos_token"), std::string::npos);
}

TEST(Tokenizer, IgnoreMergesTakesWholePieces) {
  TokenizerFile file = tiny_file(275);
  file.vocab.emplace_back("xyz", 300);
  EXPECT_EQ(encode(Tokenizer(file), "xyz").size(), 3u);
  file.ignore_merges = true;
  EXPECT_EQ(encode(Tokenizer(file), "xyz"), std::vector{300});
}

TEST(Tokenizer, SeveralThreadsGiveTheSameIds) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const std::string text = tiny_corpus();
  const std::vector<int32_t> expected = encode(tokenizer, text);
  std::vector<std::vector<int32_t>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results)
    threads.emplace_back([&tokenizer, &text, &result] {
      for (int i = 0; i < 20; ++i) result = encode(tokenizer, text);
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

TEST(Tokenizer, TheCacheChangesNothing) {
  const Tokenizer used = tiny_tokenizer();
  encode(used, tiny_corpus());
  Rng rng(2);
  for (int round = 0; round < 50; ++round) {
    std::string text;
    for (int i = 0; i < 400; ++i) text += static_cast<char>("aeint \n.12"[rng.below(10)]);
    EXPECT_EQ(encode(used, text), encode(tiny_tokenizer(), text));
  }
}

TEST(Tokenizer, LongPiecesAreFast) {
  const Tokenizer tokenizer = tiny_tokenizer();
  for (const char* unit : {"a", " ", "!", "1", "月", "é", "ab", "\n ", "\xff", "<｜"}) {
    std::string text;
    while (text.size() < (1 << 20)) text += unit;
    EXPECT_EQ(tokenizer.decode(encode(tokenizer, text), false), text) << unit;
  }
}

TEST(ByteLevel, SymbolsAndBytesAreInverse) {
  std::string all, symbols;
  for (int b = 0; b < 256; ++b) {
    all += static_cast<char>(b);
    symbols += byte_symbol(static_cast<uint8_t>(b));
  }
  EXPECT_EQ(bytes_of_symbols(symbols), all);
  EXPECT_EQ(byte_symbol(' '), "Ġ");
  EXPECT_EQ(byte_symbol('\n'), "Ċ");
  EXPECT_EQ(byte_symbol(0xAD), "Ń");
  EXPECT_EQ(byte_symbol('!'), "!");
  EXPECT_EQ(bytes_of_symbols("a b"), std::nullopt);
  EXPECT_EQ(bytes_of_symbols("｜"), std::nullopt);
  EXPECT_EQ(byte_in_alphabet_order(0), '!');
  EXPECT_EQ(byte_in_alphabet_order(255), 0xAD);
}

TEST(ByteLevel, Utf8) {
  for (char32_t c : {U'a', U'é', U'\u07ff', U'\u0800', U'\ud7ff', U'\ue000', U'\uffff', U'\U00010000', U'\U0010ffff'}) {
    std::string text;
    if (c < 0x80) {
      text = {static_cast<char>(c)};
    } else if (c < 0x800) {
      text = {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
    } else if (c < 0x10000) {
      text = {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
              static_cast<char>(0x80 | (c & 63))};
    } else {
      text = {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
              static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
    }
    EXPECT_EQ(utf8_length(text), text.size());
    EXPECT_EQ(utf8_decode(text), c);
    for (size_t cut = 1; cut < text.size(); ++cut) EXPECT_EQ(utf8_length(text.substr(0, cut)), 0u);
    EXPECT_EQ(utf8_valid_prefix("12345678" + text + "\xff"), 8 + text.size());
  }
}

}  // namespace
}  // namespace sluice
