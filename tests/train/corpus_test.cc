#include "train/corpus.h"

#include <gtest/gtest.h>

#include "../data/test_data.h"
#include "data/pack.h"

namespace sluice {
namespace {

class CorpusTest : public testing::Test {
 protected:
  CorpusTest() {
    a_ = dir_.write("a.txt", sample_text(8000, 1));
    b_ = dir_.write("b.txt", sample_text(4000, 2));
    config_.data = {a_, b_};
    config_.out = dir_ / "run";
    config_.vocab_size = 300;
  }

  Corpus load() const { return load_corpus(config_, test_tokenizer(), 1); }

  Scratch dir_;
  std::string a_, b_;
  TrainConfig config_;
};

TEST(ParseDataEntry, SplitsTheWeightOff) {
  Scratch dir;
  EXPECT_EQ(parse_data_entry("a.txt").pattern, "a.txt");
  EXPECT_EQ(parse_data_entry("a.txt").weight, 0);
  EXPECT_EQ(parse_data_entry("a=b.txt=2.5").pattern, "a=b.txt");
  EXPECT_EQ(parse_data_entry("a=b.txt=2.5").weight, 2.5);
  const std::string odd = dir.write("x=3", "text");
  EXPECT_EQ(parse_data_entry(odd).pattern, odd);  // a file of that name
  for (const char* bad : {"a.txt=", "a.txt=0", "a.txt=-1", "a.txt=nan", "a.txt=inf", "a.txt=1x"})
    expect_contains(error_of([&] { parse_data_entry(bad); }), std::string("data: ") + bad);
}

TEST_F(CorpusTest, HoldsOutTheEndOfEverySource) {
  config_.eval_fraction = 0.25;
  const Corpus c = load();
  ASSERT_EQ(c.sources.size(), 2u);
  ASSERT_EQ(c.held_out.size(), 2u);
  EXPECT_EQ(c.held_out[0].name, "a");
  EXPECT_EQ(c.held_out[1].name, "b");
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(c.held_out[i].range.begin, c.sources[i].range.end);
    const double share = static_cast<double>(c.held_out[i].range.size()) /
                         static_cast<double>(c.held_out[i].range.size() + c.sources[i].range.size());
    EXPECT_NEAR(share, 0.25, 0.001);
  }
  EXPECT_EQ(c.tokens, c.sources[0].range.size() + c.sources[1].range.size());
  EXPECT_EQ(c.notes.size(), 2u);

  config_.eval_fraction = 0;
  EXPECT_TRUE(load().held_out.empty());
}

TEST_F(CorpusTest, TakesWeightsAndNamedTexts) {
  config_.data = {a_ + "=3", b_ + "=1"};
  config_.eval = {dir_.write("c.txt", sample_text(1000, 3))};
  const Corpus c = load();
  EXPECT_EQ(c.sources[0].weight, 3);
  EXPECT_EQ(c.sources[1].weight, 1);
  ASSERT_EQ(c.held_out.size(), 1u);
  EXPECT_EQ(c.held_out[0].name, "c");
  EXPECT_EQ(c.held_out[0].range.begin, 0);
}

TEST_F(CorpusTest, RefusesToHoldOutWhatItTrainsOn) {
  config_.eval = {(dir_ / "." / "b.txt").string()};
  expect_contains(error_of([&] { load(); }),
                  "b.txt: expected a file in training or in held-out data, found it in both");
}

TEST_F(CorpusTest, OpensPackedFolders) {
  pack_to_folder({{a_}, {b_}}, test_tokenizer(), {}, dir_ / "packed");
  config_.data = config_.eval = {dir_ / "packed"};
  const Corpus c = load();
  EXPECT_EQ(c.sources[0].range.size(), TokenSet::open(dir_ / "packed", "train").tokens());
  EXPECT_EQ(c.held_out[0].range.size(), TokenSet::open(dir_ / "packed", "eval").tokens());

  BpeTrainer trainer;
  trainer.add_text(sample_text(9000, 8));
  const Tokenizer other(trainer.train(350), trained_tokenizer_config());
  expect_contains(error_of([&] { load_corpus(config_, other, 1); }), "packed: packed with another tokenizer");
  expect_contains(error_of([&] { prepare_tokenizer(config_); }), "tokenizer: expected the tokenizer that");
}

TEST_F(CorpusTest, SplitsDocumentsAtEmptyLines) {
  config_.data = {dir_.write("poems.txt", "one\n\ntwo\n\nthree\n")};
  config_.eval_fraction = 0;
  EXPECT_EQ(load().sources[0].range.set->documents(), 1);
  config_.split_blank_lines = true;
  EXPECT_EQ(load().sources[0].range.set->documents(), 3);
}

TEST_F(CorpusTest, TrainsATokenizerOnce) {
  const fs::path folder = prepare_tokenizer(config_);
  EXPECT_EQ(folder, dir_ / "run/tokenizer");
  EXPECT_EQ(Tokenizer::load(folder).vocab_size(), 300);
  config_.vocab_size = 320;
  EXPECT_EQ(Tokenizer::load(prepare_tokenizer(config_)).vocab_size(), 300);
  // What a kill between its two files leaves is not taken for a tokenizer.
  fs::remove(folder / "tokenizer_config.json");
  EXPECT_EQ(Tokenizer::load(prepare_tokenizer(config_)).vocab_size(), 320);

  config_.init_from = dir_ / "nowhere";
  expect_contains(error_of([&] { prepare_tokenizer(config_); }), "nowhere: expected a checkpoint folder");
  config_.tokenizer = dir_ / "run/tokenizer";
  EXPECT_EQ(prepare_tokenizer(config_), dir_ / "run/tokenizer");
}

}  // namespace
}  // namespace sluice
