#include "grammar/stack_dfa.h"

#include <algorithm>
#include <set>

#include "base/error.h"

namespace sluice {
namespace {

constexpr size_t kMaxVisited = 8 * StackDfa::kMaxStacks;
/// Work in steps, as measured: of a set of stacks, of each stack on the way to it, of a copy, and of memory.
constexpr uint64_t kNodeWork = 50, kStackWork = 20, kCopyWork = 4, kBytesPerStep = 16;

/// Whether `state` fits on a stack with `below` states below it; notes what that takes.
bool fits(const Automaton& net, size_t below, uint32_t state, uint32_t room, uint32_t& need) {
  const uint32_t height = static_cast<uint32_t>(below) + net.states[state].height;
  if (height > room) return false;
  need = std::max(need, height);
  return true;
}

}  // namespace

size_t upper_part(const Automaton& net, const Stack& stack, size_t size) {
  size_t at = size - 1;
  while (at > 0 && net.states[stack[at]].is_leaf) --at;
  return at;
}

size_t StackDfa::KeyHash::operator()(const std::vector<uint32_t>& key) const {
  uint64_t hash = key.size();
  for (const uint32_t x : key) {
    hash = (hash ^ x) * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 29;
  }
  return static_cast<size_t>(hash);
}

StackDfa::StackDfa(const Automaton& net, std::string where) : net_(net), where_(std::move(where)) { intern({}); }

void StackDfa::begin_work() {
  work_ = 0;
  begin_part();
}

void StackDfa::refuse() const {
  fail("{}: too ambiguous: too many alternatives have to be followed at once to find the next token", where_);
}

uint32_t StackDfa::node(std::vector<Stack> stacks, uint32_t room) { return intern(close(std::move(stacks), room)); }

void StackDfa::count_step(uint32_t from, uint8_t byte) {
  const size_t at = place(from, byte);
  if (steps_[at].to == kUnknown) {
    const uint64_t before = work_;
    const uint32_t to = find_step(from, byte);
    steps_[at].to = to;
    steps_[at].work = static_cast<uint32_t>(work_ - before);
  } else {
    add_work(steps_[at].work);
  }
  steps_[at].round = round_;
}

uint32_t StackDfa::find_step(uint32_t from, uint8_t byte) {
  std::vector<Stack> after;
  for (const Stack& stack : nodes_[from].stacks) {
    add_work(net_.bytes(stack.back()).size() / 4);
    for (const ByteEdge& e : net_.bytes(stack.back()))
      if (e.lo <= byte && byte <= e.hi) {
        after.push_back(stack);
        after.back().back() = e.to;
      }
  }
  return node(std::move(after), nodes_[from].room);
}

/// Depth first, so that the first stack that reads on is found before any limit counts.
StackDfa::Node StackDfa::close(std::vector<Stack> stacks, uint32_t room) {
  add_work(kNodeWork);
  Node node;
  node.room = room;
  std::sort(stacks.begin(), stacks.end(), std::greater<>());
  std::set<Stack> visited;
  while (!stacks.empty()) {
    const Stack stack = std::move(stacks.back());
    stacks.pop_back();
    add_work(kStackWork + stack.size() / 4);
    if (!fits(net_, stack.size() - 1, stack.back(), room, node.need) || !visited.insert(stack).second) continue;
    if (reads_on(stack, room)) node.stacks.push_back(stack);
    expand(stack, node, stacks);
    const bool enough = node.stacks.size() >= kMaxStacks || visited.size() >= kMaxVisited;
    if (enough && (!node.stacks.empty() || node.returned)) break;
  }
  std::sort(node.stacks.begin(), node.stacks.end());
  return node;
}

/// Adds to `more` what `stack` can become without reading.
void StackDfa::expand(const Stack& stack, Node& node, std::vector<Stack>& more) {
  const uint32_t top = stack.back();
  add_work((net_.empties(top).size() + net_.calls(top).size()) * kCopyWork);
  for (const EmptyEdge& e : net_.empties(top)) {
    more.push_back(stack);
    more.back().back() = e.to;
  }
  for (const CallEdge& e : net_.calls(top)) {
    const bool tail = net_.only_returns(e.to);
    if (!tail && !fits(net_, stack.size() - 1, e.to, node.room, node.need)) continue;
    more.push_back(stack);
    more.back().back() = tail ? e.rule : e.to;
    if (!tail) more.back().push_back(e.rule);
  }
  if (!net_.states[top].is_final) return;
  if (stack.size() == 1) {
    node.returned = true;
  } else {
    more.emplace_back(stack.begin(), stack.end() - 1);
  }
}

bool StackDfa::reads_on(const Stack& stack, uint32_t room) const {
  uint32_t need = 0;
  const auto can = [&](const auto& e) { return fits(net_, stack.size() - 1, e.to, room, need); };
  const auto bytes = net_.bytes(stack.back());
  const auto tokens = net_.tokens(stack.back());
  return std::any_of(bytes.begin(), bytes.end(), can) || std::any_of(tokens.begin(), tokens.end(), can);
}

uint32_t StackDfa::intern(Node node) {
  std::vector<uint32_t> key;
  if (!node.stacks.empty() || node.returned) key = {node.room, node.returned};
  for (const Stack& stack : node.stacks) {
    key.push_back(static_cast<uint32_t>(stack.size()));
    key.insert(key.end(), stack.begin(), stack.end());
  }
  const size_t bytes =
      2 * key.size() * sizeof(uint32_t) + node.stacks.size() * sizeof(Stack) + net_.num_classes * sizeof(Step) + 200;
  add_work(bytes / kBytesPerStep);
  const auto [it, is_new] = index_.try_emplace(std::move(key), static_cast<uint32_t>(nodes_.size()));
  if (!is_new) {
    nodes_[it->second].need = std::max(nodes_[it->second].need, node.need);
    return it->second;
  }
  size_ += bytes;
  nodes_.push_back(std::move(node));
  const bool is_dead = nodes_.size() == 1;
  steps_.resize(nodes_.size() * net_.num_classes, {is_dead ? kDead : kUnknown, 0, 0});
  return it->second;
}

void StackDfa::clear() {
  nodes_ = std::vector<Node>();  // not clear(), nor = {}: these keep the memory
  steps_ = std::vector<Step>();
  index_ = decltype(index_)();
  size_ = work_ = 0;
  intern({});
}

}  // namespace sluice
