// Recursive transition networks: finite automata over bytes whose edges may call one another.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct ByteEdge {
  uint32_t from, to;
  uint8_t lo, hi;  // inclusive
};

struct EmptyEdge {
  uint32_t from, to;
};

/// Reads a text of the rule that begins at state `rule`, then goes on at `to`.
struct CallEdge {
  uint32_t from, to, rule;
};

struct TokenEdge {
  uint32_t from, to;
  int32_t id;
};

/// A finished network. Where a text is in it is a stack of states: on top the one that reads on, below it those to
/// which calls return.
struct Automaton {
  /// How many states a stack has above its first: it bounds how deep JSON is nested, to 64 as parse_json() does.
  static constexpr uint32_t kMaxHeight = 63;

  struct State {
    uint32_t bytes = 0, empties = 0, calls = 0,
             tokens = 0;  // its edges begin there and end where the next state's begin
    uint8_t height = 0;   // how many states on top of this one completing it takes at least
    bool is_final = false;
    bool is_leaf = false;  // of a rule for a few bytes, which belongs to what called it (grammar/stack_dfa.h)
  };

  std::vector<State> states;  // one more at the end
  std::vector<ByteEdge> byte_edges;
  std::vector<EmptyEdge> empty_edges;
  std::vector<CallEdge> call_edges;
  std::vector<TokenEdge> token_edges;
  uint32_t start = 0;
  std::array<uint8_t, 256> byte_class{};  // bytes that no edge tells apart
  uint32_t num_classes = 0;

  std::span<const ByteEdge> bytes(uint32_t s) const { return cut(byte_edges, states[s].bytes, states[s + 1].bytes); }
  std::span<const EmptyEdge> empties(uint32_t s) const {
    return cut(empty_edges, states[s].empties, states[s + 1].empties);
  }
  std::span<const CallEdge> calls(uint32_t s) const { return cut(call_edges, states[s].calls, states[s + 1].calls); }
  std::span<const TokenEdge> tokens(uint32_t s) const {
    return cut(token_edges, states[s].tokens, states[s + 1].tokens);
  }
  /// Memory, about.
  size_t bytes() const {
    return sizeof *this + states.size() * sizeof(State) + byte_edges.size() * sizeof(ByteEdge) +
           empty_edges.size() * sizeof(EmptyEdge) + call_edges.size() * sizeof(CallEdge);
  }
  /// Whether nothing but a return follows: a call that would return here needs no place on the stack.
  bool only_returns(uint32_t s) const {
    return states[s].is_final && bytes(s).empty() && empties(s).empty() && calls(s).empty() && tokens(s).empty();
  }

 private:
  template <class Edge>
  static std::span<const Edge> cut(const std::vector<Edge>& edges, uint32_t begin, uint32_t end) {
    return std::span(edges).subspan(begin, end - begin);
  }
};

/// A named part of a network: it is entered at `start` and left at `end`.
struct Rule {
  uint32_t start = 0, end = 0;
};

/// Puts a network together. Throws Error when it becomes too large.
class AutomatonBuilder {
 public:
  /// Most states and edges: about 6 MB.
  static constexpr size_t kMaxSize = 400'000;

  /// `where`: for messages.
  explicit AutomatonBuilder(std::string where) : where_(std::move(where)) {}

  uint32_t add_state();
  /// A rule must not match the empty text, unless it is the one that finish() starts with.
  Rule add_rule();
  /// All states from this one on belong to leaf rules.
  void make_leaf(uint32_t first_state);

  void byte(uint32_t from, uint8_t lo, uint8_t hi, uint32_t to);
  void byte(uint32_t from, char c, uint32_t to) { byte(from, static_cast<uint8_t>(c), static_cast<uint8_t>(c), to); }
  void empty(uint32_t from, uint32_t to);
  void call(uint32_t from, Rule rule, uint32_t to);
  void token(uint32_t from, int32_t id, uint32_t to);
  /// Exactly `text`.
  void literal(uint32_t from, std::string_view text, uint32_t to);
  /// One of `texts`, as a trie.
  void literals(uint32_t from, const std::vector<std::string>& texts, uint32_t to);

  const std::string& where() const { return where_; }
  /// States and edges so far.
  size_t size() const { return size_; }

  /// The network that begins with `main`; the builder is empty afterwards. Throws Error when no text leads to its end
  /// or a rule calls itself before it has read anything.
  Automaton finish(Rule main);

 private:
  void grow();
  void sort_edges();
  void drop_dead_edges();
  void refuse_left_recursion() const;
  void find_byte_classes();

  std::string where_;
  Automaton net_;
  std::vector<Rule> rules_;
  size_t size_ = 0;
};

}  // namespace sluice
