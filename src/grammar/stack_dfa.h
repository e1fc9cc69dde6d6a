// Sets of stacks of an automaton as the states of a deterministic automaton, made when they are first met.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
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

  /// `net` must outlive it.
  explicit StackDfa(const Automaton& net);

  /// The node of `stacks`, none empty, and what they can reach without reading. A stack that needs more than `room`
  /// states on top of its first one to be completed is left out.
  uint32_t node(std::vector<Stack> stacks, uint32_t room);

  /// The node after one more byte.
  uint32_t step(uint32_t node, uint8_t byte) {
    const uint32_t next = next_[node * net_.num_classes + net_.byte_class[byte]];
    return next != kUnknown ? next : find_step(node, byte);
  }

  /// Whether a stack has come to the end of its upper part, that is, goes on below it.
  bool returned(uint32_t node) const { return nodes_[node].returned; }
  /// Those that can read on, sorted.
  const std::vector<Stack>& stacks(uint32_t node) const { return nodes_[node].stacks; }
  /// At least the room that it took to come to the node: with that much and more, the node is the same.
  uint32_t need(uint32_t node) const { return nodes_[node].need; }

  /// Whether it has taken so much memory that it should be emptied.
  bool is_full() const { return size_ > kMaxBytes; }
  /// Forgets all nodes but those in `keep`, which get new numbers.
  void shrink(std::span<uint32_t> keep);

 private:
  static constexpr uint32_t kUnknown = UINT32_MAX;
  static constexpr size_t kMaxBytes = size_t{12} << 20;

  struct Node {
    std::vector<Stack> stacks;
    bool returned = false;
    uint32_t room = 0, need = 0;
  };
  struct KeyHash {
    size_t operator()(const std::vector<uint32_t>& key) const;
  };

  uint32_t find_step(uint32_t node, uint8_t byte);
  Node close(std::vector<Stack> stacks, uint32_t room) const;
  void expand(const Stack& stack, Node& node, std::vector<Stack>& more) const;
  bool reads_on(const Stack& stack, uint32_t room) const;
  uint32_t intern(Node node);

  const Automaton& net_;
  std::vector<Node> nodes_;
  std::vector<uint32_t> next_;  // by node and byte class
  std::unordered_map<std::vector<uint32_t>, uint32_t, KeyHash> index_;
  size_t size_ = 0;  // bytes, about
};

}  // namespace sluice
