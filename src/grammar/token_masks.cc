#include "grammar/token_masks.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <utility>

namespace sluice {
namespace {

constexpr uint64_t kStateWork = 20;  // of noting where a text goes on, in steps

void set_bit(std::span<uint64_t> mask, int32_t id) {
  mask[static_cast<size_t>(id) / 64] |= uint64_t{1} << (static_cast<size_t>(id) % 64);
}

}  // namespace

/// Follows the bytes of one token.
struct TokenMasks::Reader {
  TokenMasks& masks;
  std::string_view bytes;
  std::set<Stack> stacks{};
  bool can_end = false;

  /// From a whole stack, of which nothing is closed yet, with the bytes from `at` on.
  void read(const Stack& stack, size_t at) {
    std::set<std::pair<size_t, size_t>> seen;  // parts of `stack` by size, and where they go on
    std::vector<std::pair<size_t, size_t>> open = {{stack.size(), at}};
    while (!open.empty()) {
      const auto [size, from] = open.back();
      open.pop_back();
      if (!seen.insert({size, from}).second) continue;
      if (size == 0) {
        can_end = can_end || from == bytes.size();
        continue;
      }
      const size_t cut = upper_part(masks.net_, stack, size);
      const Stack below(stack.begin(), stack.begin() + static_cast<ptrdiff_t>(cut));
      const Stack upper(stack.begin() + static_cast<ptrdiff_t>(cut), stack.begin() + static_cast<ptrdiff_t>(size));
      const uint32_t node = masks.dfa_.node({upper}, masks.room(cut));
      if (masks.dfa_.returned(node)) open.push_back({cut, from});
      for (const size_t end : follow(below, node, from)) open.push_back({cut, end});
    }
  }

  /// From a node above `below`. Returns where it returned, after one byte or more.
  std::vector<size_t> follow(const Stack& below, uint32_t node, size_t from) {
    std::vector<size_t> returns;
    for (size_t i = from; i < bytes.size() && node != StackDfa::kDead; ++i) {
      node = masks.dfa_.step(node, static_cast<uint8_t>(bytes[i]));
      if (masks.dfa_.returned(node)) returns.push_back(i + 1);
    }
    masks.dfa_.add_work(masks.dfa_.stacks(node).size() * kStateWork);
    for (const Stack& upper : masks.dfa_.stacks(node)) {
      Stack whole = below;
      whole.insert(whole.end(), upper.begin(), upper.end());
      stacks.insert(std::move(whole));
    }
    return returns;
  }

  Position position() const {
    Position out;
    out.can_end = can_end;
    for (const Stack& stack : stacks)
      if (out.stacks.size() < kMaxStacks) out.stacks.push_back(stack);
    return out;
  }
};

TokenMasks::TokenMasks(const Automaton& net, const TokenTrie& trie, std::string where)
    : net_(net), trie_(trie), dfa_(net, std::move(where)), path_(trie.max_depth() + 1) {}

void TokenMasks::trim() {
  if (!dfa_.is_full() && entry_bytes_ <= kMaxEntryBytes) return;
  entries_.clear();
  entry_bytes_ = 0;
  dfa_.clear();
}

/// Of each call.
void TokenMasks::begin() {
  dfa_.begin_work();
  ++calls_;
}

Position TokenMasks::start() {
  begin();
  Reader reader{*this, {}};
  reader.read({net_.start}, 0);
  return reader.position();
}

std::vector<TokenMasks::Group> TokenMasks::groups(const Position& position) const {
  std::vector<Group> out;
  for (const Stack& stack : position.stacks) {
    const auto cut = stack.begin() + static_cast<ptrdiff_t>(upper_part(net_, stack, stack.size()));
    const Stack below(stack.begin(), cut);
    auto group = std::find_if(out.begin(), out.end(), [&](const Group& g) { return g.below == below; });
    if (group == out.end()) group = out.insert(out.end(), {below, {}});
    group->upper.emplace_back(cut, stack.end());
  }
  return out;
}

Position TokenMasks::after(const Position& position, int32_t id) {
  begin();
  Reader reader{*this, trie_.bytes(id)};
  for (const Stack& stack : position.stacks)
    for (const TokenEdge& e : net_.tokens(stack.back()))
      if (e.id == id && net_.states[e.to].height <= room(stack.size() - 1)) {
        Stack next = stack;
        next.back() = e.to;
        reader.read(next, reader.bytes.size());
      }
  if (reader.bytes.empty()) return reader.position();
  for (const Group& group : groups(position)) {
    const uint32_t node = dfa_.node(group.upper, room(group.below.size()));
    for (const size_t end : reader.follow(group.below, node, 0)) reader.read(group.below, end);
  }
  return reader.position();
}

void TokenMasks::add_allowed(const Position& position, std::span<uint64_t> mask) {
  begin();
  for (const Stack& stack : position.stacks)
    for (const TokenEdge& e : net_.tokens(stack.back()))
      if (net_.states[e.to].height <= room(stack.size() - 1)) set_bit(mask, e.id);
  for (const Group& group : groups(position)) {
    const std::shared_ptr<const Entry> found = entry(group);
    dfa_.begin_part();
    for (size_t i = 0; i < found->mask.size(); ++i) mask[i] |= found->mask[i];
    add_below(group.below, found->returns, mask);
  }
}

std::shared_ptr<const TokenMasks::Entry> TokenMasks::entry(const Group& group) {
  const uint32_t limit = room(group.below.size());
  std::shared_ptr<const Entry> found = entry(group.upper, StackDfa::kUnlimited);
  return found->need <= limit ? found : entry(group.upper, limit);
}

std::shared_ptr<const TokenMasks::Entry> TokenMasks::entry(const std::vector<Stack>& upper, uint32_t room) {
  const uint32_t start = dfa_.node(upper, room);
  if (const auto it = entries_.find(start); it != entries_.end()) {
    if (std::exchange(it->second->call, calls_) != calls_) dfa_.add_work(it->second->work);
    return it->second;
  }
  const uint64_t before = dfa_.work();
  dfa_.begin_part();
  auto made = std::make_shared<Entry>();
  made->mask.resize((static_cast<size_t>(trie_.vocab_size()) + 63) / 64);
  path_[0] = start;
  made->need = walk(0, static_cast<uint32_t>(trie_.nodes().size()), 0, made->mask, made->returns);
  made->work = dfa_.work() - before;
  made->call = calls_;
  entry_bytes_ += made->mask.size() * sizeof(uint64_t) + made->returns.size() * sizeof(uint32_t) + 100;
  entries_[start] = made;
  return made;
}

/// Follows the nodes [first, last) of the trie, which lie below one of depth `depth`, from path_[depth]. Sets the bits
/// of the tokens that are reached and adds the nodes where the upper part returned and which have more below them.
/// Returns the largest need() on the way.
uint32_t TokenMasks::walk(uint32_t first, uint32_t last, uint32_t depth, std::span<uint64_t> mask,
                          std::vector<uint32_t>& returns) {
  const std::span<const TokenTrie::Node> nodes = trie_.nodes();
  uint32_t need = dfa_.need(path_[depth]);
  for (uint32_t i = first; i < last;) {
    const TokenTrie::Node& node = nodes[i];
    const uint32_t to = dfa_.step(path_[node.depth - 1u], node.byte);
    if (to == StackDfa::kDead) {
      i = node.end;
      continue;
    }
    path_[node.depth] = to;
    need = std::max(need, dfa_.need(to));
    for (const int32_t id : trie_.tokens_at(i)) set_bit(mask, id);
    if (dfa_.returned(to) && node.end > i + 1) returns.push_back(i);
    ++i;
  }
  return need;
}

/// Goes on below an upper part that returned at these nodes of the trie.
void TokenMasks::add_below(const Stack& below, const std::vector<uint32_t>& returns, std::span<uint64_t> mask) {
  if (below.empty()) return;
  std::set<std::pair<size_t, uint32_t>> seen;  // parts of `below` by size, and nodes
  std::vector<std::pair<size_t, uint32_t>> open;
  for (const uint32_t at : returns) open.push_back({below.size(), at});
  std::map<size_t, uint32_t> starts;  // by size: the part's node
  std::vector<uint32_t> more;
  while (!open.empty()) {
    const auto [size, at] = open.back();
    open.pop_back();
    dfa_.add_work(kStateWork);
    if (size == 0 || !seen.insert({size, at}).second) continue;
    const size_t cut = upper_part(net_, below, size);
    const TokenTrie::Node& node = trie_.nodes()[at];
    const auto [start, is_new] = starts.try_emplace(size);
    if (is_new)
      start->second = dfa_.node(
          {{below.begin() + static_cast<ptrdiff_t>(cut), below.begin() + static_cast<ptrdiff_t>(size)}}, room(cut));
    path_[node.depth] = start->second;
    if (dfa_.returned(path_[node.depth])) open.push_back({cut, at});
    more.clear();
    walk(at + 1, node.end, node.depth, mask, more);
    for (const uint32_t end : more) open.push_back({cut, end});
  }
}

}  // namespace sluice
