#include "grammar/token_trie.h"

#include <gtest/gtest.h>

#include "../chat/byte_tokenizer.h"
#include "base/error.h"
#include "vocabulary.h"

namespace sluice {
namespace {

TEST(TokenTrie, HoldsEveryTokenAtItsBytes) {
  const TokenTrie& trie = *json_vocabulary().trie;
  std::string path;
  size_t found = 0;
  for (size_t i = 0; i < trie.nodes().size(); ++i) {
    const TokenTrie::Node& node = trie.nodes()[i];
    path.resize(node.depth - 1u);
    path += static_cast<char>(node.byte);
    EXPECT_GT(node.end, i);
    for (const int32_t id : trie.tokens_at(i)) {
      EXPECT_EQ(trie.bytes(id), path);
      ++found;
    }
  }
  EXPECT_EQ(found, json_vocabulary().tokens.size() - 2);
  EXPECT_EQ(trie.max_depth(), 6u);
  EXPECT_EQ(trie.bytes(-1), "");
  EXPECT_EQ(trie.bytes(100'000), "");
}

TEST(TokenTrie, SubtreesEndWhereTheyShould) {
  std::vector<std::string> tokens = {"abc", "abd", "ab", "b", "ab"};
  for (int b = 0; b < 256; ++b) tokens.emplace_back(1, static_cast<char>(b));
  const TokenTrie trie(std::vector<std::string_view>(tokens.begin(), tokens.end()));
  // "a", "ab" (twice), "abc", "abd", "b" (twice) ...
  EXPECT_EQ(trie.nodes()['a'].end, 'b' + 3u);
  EXPECT_EQ(trie.nodes()['a' + 1].end, 'b' + 3u);
  EXPECT_EQ(trie.tokens_at('a' + 1).size(), 2u);
  EXPECT_EQ(trie.nodes()['a' + 2].end, 'a' + 3u);
  EXPECT_EQ(trie.tokens_at('b' + 3).size(), 2u);
}

TEST(TokenTrie, LeavesAddedTokensOut) {
  const TokenTrie trie(tokenizer());
  EXPECT_EQ(trie.vocab_size(), 257);
  EXPECT_EQ(trie.bytes('a'), "a");
  EXPECT_EQ(trie.bytes(kSpecial), "");
}

TEST(TokenTrie, RefusesAVocabularyWithoutAllBytes) {
  std::vector<std::string> tokens;
  for (int b = 0; b < 256; ++b)
    if (b != 0x80) tokens.emplace_back(1, static_cast<char>(b));
  try {
    TokenTrie trie(std::vector<std::string_view>(tokens.begin(), tokens.end()));
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "tokenizer: constrained output needs a token for every byte, found none for 0x80");
  }
}

}  // namespace
}  // namespace sluice
