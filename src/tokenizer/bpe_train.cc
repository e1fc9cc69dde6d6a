#include "tokenizer/bpe_train.h"

#include <algorithm>
#include <array>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "tokenizer/bpe.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/pre_tokenizer.h"

namespace sluice {
namespace {

constexpr std::array<const char*, 3> kFirstTokens = {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"};
// V3's, in its order, and R1's two.
constexpr std::array<const char*, 16> kLastTokens = {"<｜fim▁hole｜>",
                                                     "<｜fim▁begin｜>",
                                                     "<｜fim▁end｜>",
                                                     "<｜User｜>",
                                                     "<｜Assistant｜>",
                                                     "<｜tool▁calls▁begin｜>",
                                                     "<｜tool▁calls▁end｜>",
                                                     "<｜tool▁call▁begin｜>",
                                                     "<｜tool▁call▁end｜>",
                                                     "<｜tool▁outputs▁begin｜>",
                                                     "<｜tool▁outputs▁end｜>",
                                                     "<｜tool▁output▁begin｜>",
                                                     "<｜tool▁output▁end｜>",
                                                     "<｜tool▁sep｜>",
                                                     "<think>",
                                                     "</think>"};
constexpr int32_t kFirstByte = kFirstTokens.size();
constexpr int32_t kFirstMerged = kFirstByte + 256;
constexpr int64_t kMinCount = 2;

struct StringHash : std::hash<std::string_view> {
  using is_transparent = void;
};
using WordCounts = std::unordered_map<std::string, int64_t, StringHash, std::equal_to<>>;

/// All words as one doubly linked list of ids, and for every adjacent pair how often and where it occurs. A merge
/// touches only the places of its pair.
class PairMerger {
 public:
  explicit PairMerger(const WordCounts& words);

  /// The most frequent pair, ties by the smaller ids; false where none occurs kMinCount times.
  bool best(int32_t& left, int32_t& right);

  /// Replaces the pair by `merged` wherever it occurs.
  void merge(int32_t left, int32_t right, int32_t merged);

 private:
  static constexpr int32_t kGap = -1;  // between words, and where an id was merged into the one before
  struct Pair {
    int32_t left, right;
    int64_t count = 0;
    std::vector<uint32_t> places;  // some of which may be out of date
    bool grown = false;            // in grown_
  };
  struct Candidate {
    int64_t count;
    int32_t left, right;
    uint32_t pair;
    bool operator<(const Candidate& other) const {
      if (count != other.count) return count < other.count;
      return std::pair(left, right) > std::pair(other.left, other.right);
    }
  };

  uint32_t pair_index(int32_t left, int32_t right);
  void add(int32_t left, int32_t right, int64_t count, uint32_t place);
  void remove(int32_t left, int32_t right, int64_t count);
  void push(uint32_t pair);
  void push_grown();

  std::vector<int32_t> ids_;
  std::vector<uint32_t> next_, previous_, word_;  // by place
  std::vector<int64_t> counts_;                   // by word
  std::unordered_map<uint64_t, uint32_t> index_;
  std::vector<Pair> pairs_;
  std::vector<uint32_t> grown_;  // pairs whose count grew since they were last pushed
  std::vector<Candidate> heap_;  // every pair with a count at least as large as its own
};

PairMerger::PairMerger(const WordCounts& words) {
  size_t places = 1;
  for (const auto& [word, count] : words) places += word.size() + 1;
  if (places > UINT32_MAX)
    fail("tokenizer training: expected less than 4 GB of distinct words, found {} bytes", places);
  ids_.reserve(places);
  word_.reserve(places);
  const auto append = [&](int32_t id, size_t word) {
    ids_.push_back(id);
    word_.push_back(static_cast<uint32_t>(word));
  };
  std::array<int32_t, 256> id_of_byte{};
  for (int n = 0; n < 256; ++n) id_of_byte[byte_in_alphabet_order(n)] = kFirstByte + n;
  append(kGap, 0);
  for (const auto& [word, count] : words) {
    for (const char byte : word) append(id_of_byte[static_cast<unsigned char>(byte)], counts_.size());
    append(kGap, counts_.size());
    counts_.push_back(count);
  }
  next_.resize(places);
  previous_.resize(places);
  for (uint32_t i = 0; i < places; ++i) {
    next_[i] = i + 1;
    previous_[i] = i - 1;  // of the first one: never used, as it is a gap
  }
  for (uint32_t i = 1; i + 1 < places; ++i)
    if (ids_[i] != kGap && ids_[i + 1] != kGap) add(ids_[i], ids_[i + 1], counts_[word_[i]], i);
  push_grown();
}

uint32_t PairMerger::pair_index(int32_t left, int32_t right) {
  const uint64_t key = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  const auto [it, added] = index_.try_emplace(key, static_cast<uint32_t>(pairs_.size()));
  if (added) pairs_.push_back({left, right, 0, {}, false});
  return it->second;
}

void PairMerger::add(int32_t left, int32_t right, int64_t count, uint32_t place) {
  const uint32_t index = pair_index(left, right);
  Pair& pair = pairs_[index];
  pair.count += count;
  pair.places.push_back(place);
  if (!pair.grown) grown_.push_back(index);
  pair.grown = true;
}

void PairMerger::remove(int32_t left, int32_t right, int64_t count) { pairs_[pair_index(left, right)].count -= count; }

void PairMerger::push(uint32_t pair) {
  const Pair& p = pairs_[pair];
  heap_.push_back({p.count, p.left, p.right, pair});
  std::push_heap(heap_.begin(), heap_.end());
}

void PairMerger::push_grown() {
  for (const uint32_t pair : grown_) {
    pairs_[pair].grown = false;
    if (pairs_[pair].count >= kMinCount) push(pair);
  }
  grown_.clear();
}

bool PairMerger::best(int32_t& left, int32_t& right) {
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end());
    const Candidate top = heap_.back();
    heap_.pop_back();
    const int64_t count = pairs_[top.pair].count;
    if (count == top.count) {
      left = top.left;
      right = top.right;
      return true;
    }
    // The count fell since; where it grew, a later candidate says so.
    if (count < top.count && count >= kMinCount) push(top.pair);
  }
  return false;
}

void PairMerger::merge(int32_t left, int32_t right, int32_t merged) {
  const uint32_t index = pair_index(left, right);
  std::vector<uint32_t> places = std::exchange(pairs_[index].places, {});
  std::sort(places.begin(), places.end());  // of "aaa" the first two merge
  for (const uint32_t i : places) {
    const uint32_t j = next_[i];
    if (ids_[i] != left || ids_[j] != right) continue;
    const int64_t count = counts_[word_[i]];
    const uint32_t before = previous_[i], after = next_[j];
    remove(left, right, count);
    if (ids_[before] != kGap) {
      remove(ids_[before], left, count);
      add(ids_[before], merged, count, before);
    }
    if (ids_[after] != kGap) {
      remove(right, ids_[after], count);
      add(merged, ids_[after], count, i);
    }
    ids_[i] = merged;
    ids_[j] = kGap;
    next_[i] = after;
    previous_[after] = i;
  }
  push_grown();
}

AddedToken added_token(int32_t id, const char* content, bool special) {
  AddedToken token;
  token.id = id;
  token.content = content;
  token.special = special;
  token.normalized = !special;
  return token;
}

}  // namespace

struct BpeTrainer::Impl {
  PreTokenizer pre_tokenizer{deepseek_v3_stages(), "tokenizer training"};
  RegexScratch scratch;
  WordCounts words;
};

BpeTrainer::BpeTrainer() : impl_(std::make_unique<Impl>()) {}
BpeTrainer::~BpeTrainer() = default;

void BpeTrainer::add_text(std::string_view text) {
  while (!text.empty()) {
    const size_t valid = utf8_valid_prefix(text);
    impl_->pre_tokenizer.split(text.substr(0, valid), impl_->scratch, [&](std::string_view word) {
      const auto it = impl_->words.find(word);
      if (it != impl_->words.end()) {
        ++it->second;
      } else {
        impl_->words.emplace(word, 1);
      }
    });
    text.remove_prefix(std::min(valid + 1, text.size()));
  }
}

TokenizerFile BpeTrainer::train(int32_t vocab_size) const {
  const int32_t fixed = kFirstMerged + static_cast<int32_t>(kLastTokens.size());
  const int32_t most = static_cast<int32_t>(MergeTable::kMaxMerges);
  if (vocab_size < fixed || vocab_size > most)
    fail("vocabulary size: expected {} to {}, found {}", fixed, most, vocab_size);
  TokenizerFile file;
  std::unordered_map<std::string, int32_t> ids;
  const auto add_to_vocab = [&](const std::string& token) {
    const auto [it, added] = ids.try_emplace(token, static_cast<int32_t>(file.vocab.size()));
    if (added) file.vocab.emplace_back(token, it->second);
    return it->second;
  };
  for (const char* token : kFirstTokens) file.added_tokens.push_back(added_token(add_to_vocab(token), token, true));
  for (int n = 0; n < 256; ++n) add_to_vocab(std::string(byte_symbol(byte_in_alphabet_order(n))));

  PairMerger merger(impl_->words);
  const size_t target = static_cast<size_t>(vocab_size) - kLastTokens.size();
  int32_t left = 0, right = 0;
  std::unordered_map<uint64_t, bool> seen;
  while (file.vocab.size() < target && file.merges.size() < MergeTable::kMaxMerges && merger.best(left, right)) {
    const std::string &a = file.vocab[static_cast<size_t>(left)].first,
                      &b = file.vocab[static_cast<size_t>(right)].first;
    // Two pairs may spell the same token, and a pair may come up again after the other one made it.
    const uint64_t key = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
    if (seen.try_emplace(key, true).second) file.merges.emplace_back(a, b);
    merger.merge(left, right, add_to_vocab(a + b));
  }
  int32_t next = static_cast<int32_t>(file.vocab.size());
  for (const char* token : kLastTokens) file.added_tokens.push_back(added_token(next++, token, false));
  file.stages = deepseek_v3_stages();
  file.post_processor = R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false,"use_regex":true})";
  return file;
}

TokenizerConfig trained_tokenizer_config() {
  TokenizerConfig config;
  config.bos_token = kFirstTokens[0];
  config.eos_token = kFirstTokens[1];
  config.pad_token = kFirstTokens[1];  // as V3's
  config.add_bos_token = true;
  config.chat_template = chat_template_jinja();
  return config;
}

}  // namespace sluice
