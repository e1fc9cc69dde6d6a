#include "grammar/automaton.h"

#include <algorithm>
#include <bitset>
#include <map>
#include <unordered_map>

#include "base/error.h"

namespace sluice {
namespace {

constexpr uint8_t kNoHeight = UINT8_MAX;

template <class Edge>
void sort_by_state(std::vector<Edge>& edges, std::vector<Automaton::State>& states, uint32_t Automaton::State::*begin) {
  std::stable_sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) { return a.from < b.from; });
  size_t at = 0;
  for (size_t s = 0; s < states.size(); ++s) {
    while (at < edges.size() && edges[at].from < s) ++at;
    states[s].*begin = static_cast<uint32_t>(at);
  }
}

/// The least height of each state: a shortest path problem in which a call needs two states, solved from the lowest
/// height up.
class HeightFinder {
 public:
  explicit HeightFinder(Automaton& net) : net_(net), into_(net.states.size()) {
    for (auto& state : net.states) state.height = kNoHeight;
    for (const ByteEdge& e : net.byte_edges) into_[e.to].push_back({e.from, e.to, e.to});
    for (const EmptyEdge& e : net.empty_edges) into_[e.to].push_back({e.from, e.to, e.to});
    for (const TokenEdge& e : net.token_edges) into_[e.to].push_back({e.from, e.to, e.to});
    for (const CallEdge& e : net.call_edges) {
      into_[e.to].push_back({e.from, e.to, e.rule});
      into_[e.rule].push_back({e.from, e.to, e.rule});
    }
  }

  void run() {
    levels_.resize(Automaton::kMaxHeight + 1);
    for (uint32_t s = 0; s + 1 < net_.states.size(); ++s)
      if (net_.states[s].is_final) reach(s, 0);
    for (uint32_t height = 0; height < levels_.size(); ++height)
      for (size_t i = 0; i < levels_[height].size(); ++i) {  // grows meanwhile
        const uint32_t s = levels_[height][i];
        if (net_.states[s].height != height) continue;
        for (const Edge& e : into_[s]) follow(e);
      }
  }

 private:
  struct Edge {
    uint32_t from, to, rule;  // rule: `to` itself unless it is a call
  };

  void reach(uint32_t s, uint32_t height) {
    if (height >= levels_.size() || net_.states[s].height <= height) return;
    net_.states[s].height = static_cast<uint8_t>(height);
    levels_[height].push_back(s);
  }
  void follow(const Edge& e) {
    const uint32_t to = net_.states[e.to].height, rule = net_.states[e.rule].height;
    if (to == kNoHeight || rule == kNoHeight) return;
    const bool call = e.rule != e.to;
    reach(e.from, !call ? to : net_.only_returns(e.to) ? rule : std::max(to, rule + 1));
  }

  Automaton& net_;
  std::vector<std::vector<Edge>> into_;
  std::vector<std::vector<uint32_t>> levels_;
};

}  // namespace

void AutomatonBuilder::grow() {
  if (++size_ > kMaxSize) fail("{}: too large", where_);
}

uint32_t AutomatonBuilder::add_state() {
  grow();
  net_.states.emplace_back();
  return static_cast<uint32_t>(net_.states.size() - 1);
}

Rule AutomatonBuilder::add_rule() {
  Rule rule;
  rule.start = add_state();
  rule.end = add_state();
  net_.states[rule.end].is_final = true;
  rules_.push_back(rule);
  return rule;
}

void AutomatonBuilder::make_leaf(uint32_t first_state) {
  for (size_t s = first_state; s < net_.states.size(); ++s) net_.states[s].is_leaf = true;
}

void AutomatonBuilder::byte(uint32_t from, uint8_t lo, uint8_t hi, uint32_t to) {
  grow();
  net_.byte_edges.push_back({from, to, lo, hi});
}

void AutomatonBuilder::empty(uint32_t from, uint32_t to) {
  grow();
  net_.empty_edges.push_back({from, to});
}

void AutomatonBuilder::call(uint32_t from, Rule rule, uint32_t to) {
  grow();
  net_.call_edges.push_back({from, to, rule.start});
}

void AutomatonBuilder::token(uint32_t from, int32_t id, uint32_t to) {
  grow();
  net_.token_edges.push_back({from, to, id});
}

void AutomatonBuilder::literal(uint32_t from, std::string_view text, uint32_t to) {
  if (text.empty()) return empty(from, to);
  for (size_t i = 0; i < text.size(); ++i) {
    const uint32_t next = i + 1 == text.size() ? to : add_state();
    byte(from, text[i], next);
    from = next;
  }
}

void AutomatonBuilder::literals(uint32_t from, const std::vector<std::string>& texts, uint32_t to) {
  std::map<std::pair<uint32_t, char>, uint32_t> children;
  std::vector<uint32_t> ends;
  for (const std::string& text : texts) {
    uint32_t at = from;
    for (const char c : text) {
      const auto [child, is_new] = children.try_emplace({at, c});
      if (is_new) {
        child->second = add_state();
        byte(at, c, child->second);
      }
      at = child->second;
    }
    ends.push_back(at);
  }
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  for (const uint32_t end : ends) empty(end, to);
}

/// Removes rules that nobody calls at his beginning, one after the other: what is left calls in a circle.
void AutomatonBuilder::refuse_left_recursion() const {
  std::unordered_map<uint32_t, std::vector<uint32_t>> callees;
  std::unordered_map<uint32_t, size_t> num_callers;
  for (const Rule& rule : rules_) num_callers[rule.start] = 0;
  for (const Rule& rule : rules_) {
    std::vector<uint32_t> seen = {rule.start};
    for (size_t i = 0; i < seen.size(); ++i) {
      for (const EmptyEdge& e : net_.empties(seen[i]))
        if (std::find(seen.begin(), seen.end(), e.to) == seen.end()) seen.push_back(e.to);
      for (const CallEdge& e : net_.calls(seen[i])) {
        callees[rule.start].push_back(e.rule);
        ++num_callers[e.rule];
      }
    }
  }
  std::vector<uint32_t> free;
  for (const auto& [rule, count] : num_callers)
    if (count == 0) free.push_back(rule);
  size_t removed = 0;
  for (; removed < free.size(); ++removed)
    for (const uint32_t callee : callees[free[removed]])
      if (--num_callers[callee] == 0) free.push_back(callee);
  if (removed < num_callers.size()) fail("{}: a schema refers to itself without anything in between", where_);
}

void AutomatonBuilder::drop_dead_edges() {
  const auto dead = [&](uint32_t s) { return net_.states[s].height == kNoHeight; };
  const auto leads_nowhere = [&](const auto& e) { return dead(e.to); };
  std::erase_if(net_.byte_edges, leads_nowhere);
  std::erase_if(net_.empty_edges, leads_nowhere);
  std::erase_if(net_.token_edges, leads_nowhere);
  std::erase_if(net_.call_edges, [&](const CallEdge& e) { return dead(e.to) || dead(e.rule); });
}

void AutomatonBuilder::sort_edges() {
  sort_by_state(net_.byte_edges, net_.states, &Automaton::State::bytes);
  sort_by_state(net_.empty_edges, net_.states, &Automaton::State::empties);
  sort_by_state(net_.call_edges, net_.states, &Automaton::State::calls);
  sort_by_state(net_.token_edges, net_.states, &Automaton::State::tokens);
}

void AutomatonBuilder::find_byte_classes() {
  std::bitset<257> begins;
  for (const ByteEdge& e : net_.byte_edges) {
    begins.set(e.lo);
    begins.set(e.hi + size_t{1});
  }
  uint32_t last = 0;
  for (size_t b = 0; b < 256; ++b) {
    if (b > 0 && begins[b]) ++last;
    net_.byte_class[b] = static_cast<uint8_t>(last);
  }
  net_.num_classes = last + 1;
}

Automaton AutomatonBuilder::finish(Rule main) {
  net_.states.emplace_back();
  net_.start = main.start;
  sort_edges();
  HeightFinder(net_).run();
  if (net_.states[main.start].height == kNoHeight)
    fail("{}: no value is valid, or only one nested deeper than {}", where_, Automaton::kMaxHeight);
  drop_dead_edges();
  sort_edges();
  refuse_left_recursion();
  find_byte_classes();
  return std::move(net_);
}

}  // namespace sluice
