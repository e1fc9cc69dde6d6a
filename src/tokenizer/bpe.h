// The merging of byte-pair encoding (specification 7.2): the adjacent pair of the lowest rank first, the leftmost on
// ties, until no pair has a rank.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace sluice {

/// Pairs of token ids -> rank -> merged id. Look-ups are bound by cache misses, so a pair and its rank share 8 bytes of
/// a hash table with open addressing.
class MergeTable {
 public:
  static constexpr uint32_t kNoRank = UINT32_MAX;
  static constexpr size_t kMaxMerges = (size_t{1} << 20) - 1;
  static constexpr int32_t kMaxIds = int32_t{1} << 22;

  /// `pairs` is how many insert() and insert_again() will be given at most.
  explicit MergeTable(size_t pairs);

  /// Adds the pair of the next rank, of at most kMaxMerges; ids are in [0, kMaxIds). Of a pair given twice the later
  /// rank counts.
  void insert(int32_t left, int32_t right, int32_t merged);
  /// Adds another pair of the rank that insert() has given last: it becomes the same token.
  void insert_again(int32_t left, int32_t right);

  /// kNoRank: the pair does not merge.
  uint32_t rank(int32_t left, int32_t right) const {
    const uint64_t key = key_of(left, right);
    for (size_t i = slot_of(key);; i = (i + 1) & mask_) {
      const uint64_t slot = slots_[i];
      if (slot == kEmpty) return kNoRank;
      if (slot >> kRankBits == key) return static_cast<uint32_t>(slot & kMaxMerges);
    }
  }

  /// What the pair of `rank` becomes.
  int32_t merged(uint32_t rank) const { return merged_[rank]; }

 private:
  static constexpr int kRankBits = 20;
  static constexpr uint64_t kEmpty = UINT64_MAX;  // no pair: its rank would be kMaxMerges

  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 22 | static_cast<uint64_t>(right);
  }
  size_t slot_of(uint64_t key) const { return (key * 0x9e3779b97f4a7c15ull >> 32) & mask_; }

  std::vector<uint64_t> slots_;
  size_t mask_;
  std::vector<int32_t> merged_;
};

/// Memory that bpe_merge() keeps between calls; one thread at a time.
struct BpeScratch {
  struct Candidate {
    uint32_t rank;
    size_t at;
  };
  std::vector<uint32_t> ranks;
  std::vector<size_t> next, previous;
  std::vector<Candidate> heap;
};

/// Merges `ids` in place, in O(n log n) for n ids.
void bpe_merge(const MergeTable& table, std::vector<int32_t>& ids, BpeScratch& scratch);

}  // namespace sluice
