#include "grammar/char_dfa.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "grammar/compile_work.h"
#include "grammar/regex_syntax.h"

namespace sluice {
namespace {

constexpr size_t kMaxNfaStates = 20'000, kMaxNfaEdges = 200'000, kMaxDfaStates = 5'000;

/// Thompson's construction.
class CharNfa {
 public:
  struct Edge {
    CharRange range;
    uint32_t to;
  };
  struct State {
    std::vector<Edge> edges;
    std::vector<uint32_t> empties;
  };

  CharNfa(const RegexNode& tree, const std::string& where) : where_(where) {
    add_state();
    end_ = add(tree, 0);
  }

  const State& state(uint32_t s) const { return states_[s]; }
  uint32_t end() const { return end_; }
  size_t size() const { return states_.size(); }

 private:
  uint32_t add_state() {
    if (states_.size() >= kMaxNfaStates) fail("{}: the pattern is too large", where_);
    states_.emplace_back();
    return static_cast<uint32_t>(states_.size() - 1);
  }

  /// Adds what leads from `from` through `node`; returns where to.
  uint32_t add(const RegexNode& node, uint32_t from) {
    uint32_t to = from;
    switch (node.kind) {
      case RegexNode::Kind::characters:
        to = add_state();
        num_edges_ += node.characters.size();
        if (num_edges_ > kMaxNfaEdges) fail("{}: the pattern is too large", where_);
        for (const CharRange& range : node.characters) states_[from].edges.push_back({range, to});
        return to;
      case RegexNode::Kind::sequence:
        for (const RegexNode& part : node.parts) to = add(part, to);
        return to;
      case RegexNode::Kind::choice:
        to = add_state();
        for (const RegexNode& part : node.parts) {
          const uint32_t begin = add_state();
          states_[from].empties.push_back(begin);
          states_[add(part, begin)].empties.push_back(to);
        }
        return to;
      case RegexNode::Kind::repeat:
        return add_repeat(node, from);
    }
    return to;
  }

  uint32_t add_repeat(const RegexNode& node, uint32_t from) {
    for (uint32_t i = 0; i < node.min; ++i) from = add(node.parts[0], from);
    const uint32_t to = add_state();
    if (node.max == RegexNode::kUnbounded) {
      const uint32_t loop = add_state();
      states_[from].empties.push_back(loop);
      states_[add(node.parts[0], loop)].empties.push_back(loop);
      from = loop;
    }
    for (uint32_t i = node.min; node.max != RegexNode::kUnbounded && i < node.max; ++i) {
      states_[from].empties.push_back(to);
      const uint32_t begin = add_state();  // so that nothing leads back to where the way out begins
      states_[from].empties.push_back(begin);
      from = add(node.parts[0], begin);
    }
    states_[from].empties.push_back(to);
    return to;
  }

  const std::string& where_;
  std::vector<State> states_;
  size_t num_edges_ = 0;
  uint32_t end_ = 0;
};

/// The subset construction.
class SubsetBuilder {
 public:
  SubsetBuilder(const CharNfa& nfa, const std::string& where, size_t& work)
      : nfa_(nfa), where_(where), work_(work), mark_(nfa.size()) {}

  CharDfa run() {
    find({0});
    for (uint32_t s = 0; s < dfa_.states.size(); ++s) add_edges(s);
    return std::move(dfa_);
  }

 private:
  using Set = std::vector<uint32_t>;

  uint32_t find(Set set) {
    ++round_;
    std::erase_if(set, [&](uint32_t s) { return std::exchange(mark_[s], round_) == round_; });
    for (size_t i = 0; i < set.size(); ++i)
      for (const uint32_t next : nfa_.state(set[i]).empties)
        if (std::exchange(mark_[next], round_) != round_) set.push_back(next);
    std::sort(set.begin(), set.end());
    work_ += set.size();
    const auto [it, is_new] = index_.try_emplace(set, static_cast<uint32_t>(dfa_.states.size()));
    if (is_new) {
      dfa_.states.push_back({std::binary_search(set.begin(), set.end(), nfa_.end()), {}});
      sets_.push_back(std::move(set));
    }
    if (dfa_.states.size() > kMaxDfaStates || work_ > kMaxCompileWork) fail("{}: the pattern is too intricate", where_);
    return it->second;
  }

  void add_edges(uint32_t from) {
    std::vector<CharNfa::Edge> edges;
    std::vector<char32_t> cuts;
    for (const uint32_t s : sets_[from])
      for (const CharNfa::Edge& e : nfa_.state(s).edges) {
        edges.push_back(e);
        cuts.push_back(e.range.lo);
        cuts.push_back(e.range.hi + 1);
      }
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      Set targets;
      work_ += edges.size();
      for (const CharNfa::Edge& e : edges)
        if (e.range.lo <= cuts[i] && cuts[i] <= e.range.hi) targets.push_back(e.to);
      if (targets.empty()) continue;
      const uint32_t to = find(std::move(targets));
      std::vector<CharDfa::Edge>& out = dfa_.states[from].edges;
      if (!out.empty() && out.back().to == to && out.back().range.hi + 1 == cuts[i]) {
        out.back().range.hi = cuts[i + 1] - 1;
      } else {
        out.push_back({{cuts[i], cuts[i + 1] - 1}, to});
      }
    }
  }

  const CharNfa& nfa_;
  const std::string& where_;
  size_t& work_;
  CharDfa dfa_;
  std::vector<Set> sets_;
  std::map<Set, uint32_t> index_;
  std::vector<uint32_t> mark_;
  uint32_t round_ = 0;
};

}  // namespace

CharDfa compile_pattern(std::string_view pattern, const std::string& where, size_t& work) {
  const CharNfa nfa(parse_regex(pattern, where), where);
  work += nfa.size();
  return SubsetBuilder(nfa, where, work).run();
}

CharDfa limit_length(const CharDfa& dfa, uint32_t min, uint32_t max, const std::string& where) {
  using Key = std::pair<uint32_t, uint32_t>;  // state, length; without an upper limit lengths from `min` on are alike
  CharDfa out;
  std::vector<Key> keys;
  std::map<Key, uint32_t> index;
  const auto find = [&](Key key) {
    if (max == JsonText::kNoLimit) key.second = std::min(key.second, min);
    const auto [it, is_new] = index.try_emplace(key, static_cast<uint32_t>(keys.size()));
    if (is_new) {
      keys.push_back(key);
      out.states.push_back({dfa.states[key.first].is_final && key.second >= min, {}});
    }
    if (keys.size() > kMaxDfaStates) fail("{}: a pattern with such a length is too large", where);
    return it->second;
  };
  find({0, 0});
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto [state, length] = keys[i];
    if (length == max) continue;
    for (const CharDfa::Edge& e : dfa.states[state].edges) {
      const uint32_t to = find({e.to, length + 1});
      out.states[i].edges.push_back({e.range, to});
    }
  }
  return out;
}

void add_strings(AutomatonBuilder& net, JsonText& json, uint32_t from, const CharDfa& dfa, uint32_t to) {
  std::vector<uint32_t> states;
  for (size_t i = 0; i < dfa.states.size(); ++i) states.push_back(net.add_state());
  net.byte(from, '"', states[0]);
  for (size_t i = 0; i < dfa.states.size(); ++i) {
    if (dfa.states[i].is_final) net.byte(states[i], '"', to);
    for (const CharDfa::Edge& e : dfa.states[i].edges) json.characters(states[i], e.range.lo, e.range.hi, states[e.to]);
  }
}

}  // namespace sluice
