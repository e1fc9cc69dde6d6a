// Sets of stacks of an automaton as the states of a deterministic automaton, made when they are first met.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "grammar/automaton.h"

namespace sluice {

/// States of an Automaton; the one that reads on is last.
using Stack = std::vector<uint32_t>;

/// Where the upper part of a stack begins, which is followed without regard to what lies below: at its last state that
/// belongs to no leaf rule. What follows from the upper part alone is the same wherever its rule was called, so that it
/// is computed once; returns to the part below are left to the caller.
size_t upper_part(const Automaton& net, const Stack& stack, size_t size);

/// A node is a set of upper parts, closed under all moves that read nothing. Of a set of more than kMaxStacks stacks
/// only so many are kept: every stack can be completed, so the text stays valid, but it may take fewer forms.
class StackDfa {
 public:
  static constexpr size_t kMaxStacks = 128;
  /// The node of no stack at all.
  static constexpr uint32_t kDead = 0;
  /// Room for stacks of any height.
  static constexpr uint32_t kUnlimited = 1u << 20;

  /// `net` must outlive it. `where`: for messages.
  StackDfa(const Automaton& net, std::string where);

  /// The node of `stacks`, none empty, and what they can reach without reading. A stack that needs more than `room`
  /// states on top of its first one to be completed is left out.
  uint32_t node(std::vector<Stack> stacks, uint32_t room);

  /// The node after one more byte.
  uint32_t step(uint32_t node, uint8_t byte) {
    const size_t at = place(node, byte);
    if (steps_[at].round != round_) count_step(node, byte);
    add_work(1);
    return steps_[at].to;
  }

  /// Whether a stack has come to the end of its upper part, that is, goes on below it.
  bool returned(uint32_t node) const { return nodes_[node].returned; }
  /// Those that can read on, sorted.
  const std::vector<Stack>& stacks(uint32_t node) const { return nodes_[node].stacks; }
  /// At least the room that it took to come to the node: with that much and more, the node is the same.
  uint32_t need(uint32_t node) const { return nodes_[node].need; }

  /// Begins to count anew what is asked for, in steps of about 5 ns. Where it comes to more than kMaxWork, an
  /// Error "where: ..." is thrown.
  void begin_work();
  /// Counts `steps` more.
  void add_work(uint64_t steps) {
    if ((work_ += steps) > kMaxWork) refuse();
  }
  /// A step counts as if it were not known yet when it is taken for the first time since begin_work() or this: so the
  /// count depends on what is asked for alone, not on what was known of it, and a text that is refused is refused
  /// always.
  void begin_part() { ++round_; }
  /// Counted since begin_work().
  uint64_t work() const { return work_; }

  /// Memory, about.
  size_t bytes() const { return size_; }
  /// Whether it has taken so much memory that it should be emptied.
  bool is_full() const { return size_ > kMaxBytes; }
  /// Forgets all nodes and gives their memory back.
  void clear();

 private:
  static constexpr uint64_t kMaxWork = 2'000'000;  // 10 ms; memory counts too, so that it may grow by 32 MB meanwhile
  static constexpr uint32_t kUnknown = UINT32_MAX;
  static constexpr size_t kMaxBytes = size_t{8} << 20;

  struct Node {
    std::vector<Stack> stacks;
    bool returned = false;
    uint32_t room = 0, need = 0;
  };
  struct KeyHash {
    size_t operator()(const std::vector<uint32_t>& key) const;
  };

  struct Step {
    uint32_t to = kUnknown;
    uint32_t work = 0;   // of finding it
    uint64_t round = 0;  // in which it was counted last
  };

  size_t place(uint32_t node, uint8_t byte) const { return size_t{node} * net_.num_classes + net_.byte_class[byte]; }
  void count_step(uint32_t node, uint8_t byte);
  [[noreturn]] void refuse() const;
  uint32_t find_step(uint32_t node, uint8_t byte);
  Node close(std::vector<Stack> stacks, uint32_t room);
  void expand(const Stack& stack, Node& node, std::vector<Stack>& more);
  bool reads_on(const Stack& stack, uint32_t room) const;
  uint32_t intern(Node node);

  const Automaton& net_;
  std::vector<Node> nodes_;
  std::vector<Step> steps_;  // by node and byte class
  std::unordered_map<std::vector<uint32_t>, uint32_t, KeyHash> index_;
  size_t size_ = 0;  // bytes, about
  uint64_t work_ = 0, round_ = 1;
  const std::string where_;
};

}  // namespace sluice
