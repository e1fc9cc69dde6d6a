#include "tokenizer/bpe_train.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/rng.h"
#include "tiny_tokenizer.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/pre_tokenizer.h"

namespace sluice {
namespace {

/// The definition: counts all pairs anew for every merge.
std::vector<std::pair<std::string, std::string>> train_by_definition(const std::string& text, size_t num_merges) {
  std::map<std::string, int64_t> words;
  RegexScratch scratch;
  PreTokenizer(deepseek_v3_stages(), "test").split(text, scratch, [&](std::string_view w) { ++words[std::string(w)]; });
  std::map<std::string, int32_t> id_of;
  std::vector<std::string> tokens(3);
  for (int n = 0; n < 256; ++n) tokens.emplace_back(byte_symbol(byte_in_alphabet_order(n)));
  for (size_t i = 3; i < tokens.size(); ++i) id_of[tokens[i]] = static_cast<int32_t>(i);
  std::vector<std::pair<std::vector<int32_t>, int64_t>> corpus;
  for (const auto& [word, count] : words) {
    auto& ids = corpus.emplace_back(std::vector<int32_t>{}, count).first;
    for (const char c : word) ids.push_back(id_of[std::string(byte_symbol(static_cast<uint8_t>(c)))]);
  }
  std::vector<std::pair<std::string, std::string>> merges;
  while (merges.size() < num_merges) {
    std::map<std::pair<int32_t, int32_t>, int64_t> counts;
    for (const auto& [ids, count] : corpus)
      for (size_t i = 0; i + 1 < ids.size(); ++i) counts[{ids[i], ids[i + 1]}] += count;
    auto best = counts.end();
    for (auto it = counts.begin(); it != counts.end(); ++it)
      if (it->second >= 2 && (best == counts.end() || it->second > best->second)) best = it;
    if (best == counts.end()) break;
    const auto [left, right] = best->first;
    merges.emplace_back(tokens[static_cast<size_t>(left)], tokens[static_cast<size_t>(right)]);
    const std::string token = merges.back().first + merges.back().second;
    const auto [it, added] = id_of.try_emplace(token, static_cast<int32_t>(tokens.size()));
    if (added) tokens.push_back(token);
    for (auto& [ids, count] : corpus)
      for (size_t i = 0; i + 1 < ids.size(); ++i)
        if (ids[i] == left && ids[i + 1] == right) {
          ids[i] = it->second;
          ids.erase(ids.begin() + static_cast<ptrdiff_t>(i) + 1);
        }
  }
  return merges;
}

TEST(BpeTrain, EqualsTheDefinition) {
  Rng rng(4);
  for (int round = 0; round < 20; ++round) {
    std::string text;
    for (int i = 0; i < 1500; ++i) text += static_cast<char>("aab c\n1,"[rng.below(round % 2 ? 8 : 3)]);
    BpeTrainer trainer;
    trainer.add_text(text);
    const TokenizerFile file = trainer.train(400);
    EXPECT_EQ(file.merges, train_by_definition(text, file.merges.size()));
  }
}

TEST(BpeTrain, LayoutOfIds) {
  const TokenizerFile file = tiny_file(400);
  const Tokenizer tokenizer(file, trained_tokenizer_config());
  EXPECT_EQ(tokenizer.vocab_size(), 400);
  EXPECT_EQ(tokenizer.id_of("<｜begin▁of▁sentence｜>"), 0);
  EXPECT_EQ(tokenizer.id_of("<｜end▁of▁sentence｜>"), 1);
  EXPECT_EQ(tokenizer.id_of("<｜▁pad▁｜>"), 2);
  EXPECT_EQ(tokenizer.token_bytes(3), "!");
  EXPECT_EQ(tokenizer.token_bytes(201), "\n");
  EXPECT_EQ(tokenizer.token_bytes(223), " ");
  EXPECT_EQ(tokenizer.id_of("<｜fim▁hole｜>"), 400 - 16);
  EXPECT_EQ(tokenizer.id_of("<｜fim▁begin｜>"), 400 - 15);
  EXPECT_EQ(tokenizer.id_of("<｜fim▁end｜>"), 400 - 14);
  EXPECT_EQ(tokenizer.id_of("<｜User｜>"), 400 - 13);
  EXPECT_EQ(tokenizer.id_of("<｜Assistant｜>"), 400 - 12);
  EXPECT_EQ(tokenizer.id_of("<think>"), 398);
  EXPECT_EQ(tokenizer.id_of("</think>"), 399);
  std::set<std::string_view> bytes;
  for (int32_t id = 0; id < 400; ++id) EXPECT_TRUE(bytes.insert(tokenizer.token_bytes(id)).second) << id;
  EXPECT_EQ(tokenizer.bos_id(), 0);
  EXPECT_EQ(tokenizer.eos_id(), 1);
  EXPECT_EQ(tokenizer.pad_id(), 1);
  EXPECT_TRUE(tokenizer.add_bos());
}

TEST(BpeTrain, OrderOfTheTextDoesNotMatter) {
  BpeTrainer forwards, backwards;
  std::vector<std::string> lines = {"one two three\n", "two three four\n", "three 月光月光\n", "one four\n",
                                    "\xff bad\n"};
  for (int i = 0; i < 5; ++i) {
    for (const std::string& line : lines) forwards.add_text(line);
    for (auto it = lines.rbegin(); it != lines.rend(); ++it) backwards.add_text(*it);
  }
  EXPECT_EQ(format_tokenizer_json(forwards.train(300)), format_tokenizer_json(backwards.train(300)));
}

TEST(BpeTrain, VocabularySize) {
  BpeTrainer trainer;
  EXPECT_EQ(Tokenizer(trainer.train(275)).vocab_size(), 275);
  EXPECT_EQ(Tokenizer(trainer.train(5000)).vocab_size(), 275);  // no text, no merges
  EXPECT_EQ(error_of([&] { trainer.train(274); }), "vocabulary size: expected 275 to 1048575, found 274");
  EXPECT_NE(error_of([&] { trainer.train(1 << 20); }), "");
  trainer.add_text("abababab abababab");
  const Tokenizer tokenizer(trainer.train(5000));
  EXPECT_LT(tokenizer.vocab_size(), 300);
  EXPECT_EQ(encode(tokenizer, "abababab").size(), 1u);
}

}  // namespace
}  // namespace sluice
