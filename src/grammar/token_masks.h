// The work behind constraint.h: what tokens do to stacks of an automaton.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/stack_dfa.h"
#include "grammar/token_trie.h"

namespace sluice {

/// Where a text may be: all stacks that can read on, and whether it may end.
struct Position {
  std::vector<Stack> stacks;  // sorted
  bool can_end = false;
};

/// A token is followed from the upper parts of stacks (grammar/stack_dfa.h); where a part returns, it goes on with the
/// part below. The mask of an upper part is computed once, with the places in the trie where it returns. Not
/// thread-safe.
///
/// Where very many alternatives go on side by side, as where a hundred patterns may be meant, sets of stacks grow into
/// ever new ones, and a walk over the vocabulary would take seconds. The work of each call is bounded, at some 10 ms;
/// beyond, it throws an Error "where: ...".
class TokenMasks {
 public:
  /// `net` and `trie` must outlive it. `where`: for messages.
  TokenMasks(const Automaton& net, const TokenTrie& trie, std::string where);

  Position start();
  /// Sets the bits of the tokens that `position` allows.
  void add_allowed(const Position& position, std::span<uint64_t> mask);
  /// What the token leads to: nothing where it is not allowed.
  Position after(const Position& position, int32_t id);

  /// Forgets what is kept where it is too much, at some 16 MiB. To be called after each of the above, which may add
  /// 32 MB, also where they throw.
  void trim();
  /// Memory for what is kept, about.
  size_t bytes() const { return dfa_.bytes() + entry_bytes_; }

 private:
  /// Stacks with the same lower part.
  struct Group {
    Stack below;
    std::vector<Stack> upper;
  };
  struct Entry {
    std::vector<uint64_t> mask;
    std::vector<uint32_t> returns;  // nodes of the trie after which the upper part has returned
    uint32_t need = 0;
    uint64_t work = 0;  // of making it
    uint64_t call = 0;  // of begin(), in which that was counted last
  };
  struct Reader;

  static constexpr size_t kMaxStacks = 2 * StackDfa::kMaxStacks;
  static constexpr size_t kMaxEntryBytes = size_t{8} << 20;

  void begin();
  std::vector<Group> groups(const Position& position) const;
  uint32_t room(size_t below) const { return Automaton::kMaxHeight - static_cast<uint32_t>(below); }
  std::shared_ptr<const Entry> entry(const Group& group);
  std::shared_ptr<const Entry> entry(const std::vector<Stack>& upper, uint32_t room);
  uint32_t walk(uint32_t first, uint32_t last, uint32_t depth, std::span<uint64_t> mask,
                std::vector<uint32_t>& returns);
  void add_below(const Stack& below, const std::vector<uint32_t>& returns, std::span<uint64_t> mask);

  const Automaton& net_;
  const TokenTrie& trie_;
  StackDfa dfa_;
  std::unordered_map<uint32_t, std::shared_ptr<Entry>> entries_;  // by node of dfa_
  size_t entry_bytes_ = 0;
  uint64_t calls_ = 0;          // of begin()
  std::vector<uint32_t> path_;  // of walk(): the node of dfa_ by depth in the trie
};

}  // namespace sluice
