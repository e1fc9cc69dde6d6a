#include "tokenizer/tiktoken.h"

#include <map>

#include "base/rng.h"
#include "formats/tiktoken.h"
#include "tiny_tokenizer.h"
#include "tokenizer/pre_tokenizer.h"

namespace sluice {
namespace {

std::string base64(std::string_view bytes) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k)
      bits = bits << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k) text += i + k <= bytes.size() ? kAlphabet[bits >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

std::string file_of(const std::vector<std::string>& tokens) {
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) text += base64(tokens[i]) + " " + std::to_string(i) + "\n";
  return text;
}

/// The bytes, then these.
std::vector<std::string> with_bytes(const std::vector<std::string>& longer) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  tokens.insert(tokens.end(), longer.begin(), longer.end());
  return tokens;
}

TokenizerFile tokenizer_of(const std::vector<std::string>& tokens) {
  return tiktoken_file(parse_tiktoken(file_of(tokens), "t"), {});
}

/// The definition: a piece that is a token stays whole, else the two neighbours merge whose bytes together have the
/// lowest rank, the leftmost on ties.
std::vector<int32_t> reference(const std::vector<std::string>& tokens, std::string_view text) {
  std::map<std::string, int32_t, std::less<>> rank;
  for (size_t i = 0; i < tokens.size(); ++i) rank[tokens[i]] = static_cast<int32_t>(i);
  std::vector<int32_t> ids;
  RegexScratch scratch;
  PreTokenizer(tokenizer_of(tokens).stages, "t").split(text, scratch, [&](std::string_view piece) {
    std::vector<std::string> parts;
    if (rank.count(piece))
      parts.emplace_back(piece);
    else
      for (const char c : piece) parts.emplace_back(1, c);
    for (;;) {
      size_t best = parts.size();
      int32_t least = INT32_MAX;
      for (size_t i = 0; i + 1 < parts.size(); ++i)
        if (const auto it = rank.find(parts[i] + parts[i + 1]); it != rank.end() && it->second < least) {
          least = it->second;
          best = i;
        }
      if (best == parts.size()) break;
      parts[best] += parts[best + 1];
      parts.erase(parts.begin() + static_cast<int64_t>(best) + 1);
    }
    for (const std::string& part : parts) ids.push_back(rank.at(part));
  });
  return ids;
}

TEST(Tiktoken, ReadsItsLines) {
  const auto tokens = parse_tiktoken("IGE= 1\n\nIQ== 0\nYWJj 7", "t");
  EXPECT_EQ(tokens, (std::vector<std::pair<std::string, int32_t>>{{"!", 0}, {" a", 1}, {"abc", 7}}));
  EXPECT_TRUE(parse_tiktoken("", "t").empty());
  for (const char* wrong : {"IQ==", "IQ== ", "IQ== x", "IQ== 1 2", "IQ== -1", "IQ== 4194304", "IQ 1", "I!== 1", " 1",
                            "I=Q= 1", "==== 1", "IQ==  1"}) {
    const std::string error = error_of([&] { parse_tiktoken(std::string("YQ== 0\n") + wrong, "t"); });
    EXPECT_NE(error.find("t: line 2: "), std::string::npos) << wrong << ": " << error;
  }
  EXPECT_NE(error_of([] { parse_tiktoken("YQ== 0\nYQ== 1\n", "t"); }).find("line 2"), std::string::npos);
  EXPECT_NE(error_of([] { parse_tiktoken("YQ== 0\nYg== 0\n", "t"); }).find("found 0 twice"), std::string::npos);
}

TEST(Tiktoken, MergesByRank) {
  // "aab" comes before "ab": only a + ab can make it, whichever of the cuts a merge list would have named.
  const std::vector<std::string> tokens = with_bytes({"aa", "ab", "aab", "aaa", "ba", "abab", " a", "bc", "aabc"});
  const Tokenizer tokenizer(tokenizer_of(tokens));
  for (const char* text : {"aab", "aaab", "aaaaaaab", "abababc", "aabc", "a aab", "", "bcaab"})
    EXPECT_EQ(encode(tokenizer, text), reference(tokens, text)) << text;
  EXPECT_EQ(encode(tokenizer, "aabc"), (std::vector<int32_t>{264}));
}

TEST(Tiktoken, MergesLikeTheDefinitionOnRandomVocabularies) {
  Rng rng(1);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::string> longer;
    for (int i = 0; i < 40; ++i) {
      std::string token;
      for (uint64_t n = 2 + rng.below(5); n > 0; --n) token += static_cast<char>('a' + rng.below(3));
      if (std::find(longer.begin(), longer.end(), token) == longer.end()) longer.push_back(token);
    }
    const std::vector<std::string> tokens = with_bytes(longer);
    const Tokenizer tokenizer(tokenizer_of(tokens));
    for (const size_t size : {5u, 20u, 200u}) {  // the last one is merged with a heap
      std::string text;
      while (text.size() < size) text += static_cast<char>('a' + rng.below(3));
      ASSERT_EQ(encode(tokenizer, text), reference(tokens, text)) << text;
    }
  }
}

TEST(Tiktoken, MergesStandForTheRanks) {
  const TokenizerFile file = tokenizer_of(with_bytes({"ab", "cd", "abcd", "xyz", "\xe4\xbd"}));
  using Merges = std::vector<std::pair<std::string, std::string>>;
  EXPECT_EQ(merges_of_ranks(file), (Merges{{"a", "b"}, {"c", "d"}, {"ab", "cd"}, {"ä", "½"}}));  // nothing makes "xyz"
}

TEST(Tiktoken, LoadsAFolder) {
  TempDir dir;
  EXPECT_FALSE(has_tokenizer(dir.path()));
  write_file(dir / "tiktoken.model",
             file_of(with_bytes({"He", "ll", "llo", "Hello", "\xe4\xbd", "你", "\xe5\xa5", "好"})));
  write_file(dir / "tokenizer_config.json", R"({"added_tokens_decoder": {
    "270": {"content": "[EOS]", "special": true, "lstrip": false, "normalized": false},
    "269": {"content": "[BOS]", "special": true}, "271": {"content": "<|im_user|>", "special": false}},
    "bos_token": "[BOS]", "eos_token": "[EOS]", "chat_template": "x"})");
  EXPECT_TRUE(has_tokenizer(dir.path()));
  const Tokenizer t = Tokenizer::load(dir.path());
  EXPECT_EQ(t.bos_id(), 269);
  EXPECT_EQ(t.eos_id(), 270);
  EXPECT_FALSE(t.add_bos());
  EXPECT_EQ(t.vocab_size(), 272);
  EXPECT_EQ(encode(t, "Hello你好<|im_user|>!"), (std::vector<int32_t>{259, 261, 263, 271, '!'}));
  EXPECT_TRUE(t.is_special(270));
  EXPECT_FALSE(t.is_special(271));
  EXPECT_EQ(t.decode(encode(t, "Hello你好 \xff"), false), "Hello你好 \xff");
  write_file(dir / "tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "[EOS]"}}})");
  EXPECT_NE(error_of([&] { Tokenizer::load(dir.path()); }).find("added_tokens_decoder"), std::string::npos);
}

}  // namespace
}  // namespace sluice
