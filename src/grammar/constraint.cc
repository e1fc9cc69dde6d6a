#include "grammar/constraint.h"

#include <algorithm>
#include <atomic>
#include <mutex>

#include "base/error.h"
#include "grammar/token_masks.h"

namespace sluice {

struct Constraint::State : Position {
  bool ended = false;
};

struct TokenGrammar::Impl {
  Impl(std::shared_ptr<const Grammar> g, std::shared_ptr<const TokenTrie> t, std::vector<int32_t> ends)
      : grammar(std::move(g)),
        trie(std::move(t)),
        end_ids(std::move(ends)),
        masks(grammar->automaton(), *trie, grammar->where()) {}

  /// What use(masks) returns. Their memory is bounded and counted afterwards, also where it throws.
  template <class F>
  auto with_masks(F&& use) {
    const std::lock_guard lock(mutex);
    struct Counted {
      Impl& impl;
      ~Counted() {
        impl.masks.trim();
        impl.mask_bytes = impl.masks.bytes();
      }
    } counted{*this};
    return use(masks);
  }

  const std::shared_ptr<const Grammar> grammar;
  const std::shared_ptr<const TokenTrie> trie;
  const std::vector<int32_t> end_ids;
  std::atomic<size_t> mask_bytes = 0;  // for those who do not wait for the masks

 private:
  std::mutex mutex;
  TokenMasks masks;
};

TokenGrammar::TokenGrammar(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTrie> trie,
                           std::vector<int32_t> end_ids)
    : impl_(std::make_unique<Impl>(std::move(grammar), std::move(trie), std::move(end_ids))) {
  const auto check_id = [&](int32_t id) {
    if (id < 0 || id >= vocab_size()) fail("grammar: expected token ids below {}, found {}", vocab_size(), id);
  };
  if (impl_->end_ids.empty()) fail("grammar: expected a token that ends a text");
  for (const int32_t id : impl_->end_ids) check_id(id);
  for (const TokenEdge& e : impl_->grammar->automaton().token_edges) check_id(e.id);
}

TokenGrammar::~TokenGrammar() = default;

size_t TokenGrammar::grammar_bytes() const { return impl_->grammar->automaton().bytes(); }

size_t TokenGrammar::bytes() const { return grammar_bytes() + impl_->mask_bytes; }

int32_t TokenGrammar::vocab_size() const { return impl_->trie->vocab_size(); }

Constraint::Constraint(std::shared_ptr<TokenGrammar> grammar) : grammar_(std::move(grammar)) {
  state_ = std::make_shared<const State>(State{grammar_->impl_->with_masks([](TokenMasks& m) { return m.start(); })});
}

void Constraint::allowed(std::span<uint64_t> mask) const {
  TokenGrammar::Impl& g = *grammar_->impl_;
  check(mask.size() * 64 >= static_cast<size_t>(g.trie->vocab_size()), "allowed: expected a bit for every token");
  std::fill(mask.begin(), mask.end(), 0);
  if (state_->ended) return;
  g.with_masks([&](TokenMasks& masks) { masks.add_allowed(*state_, mask); });
  for (const int32_t id : g.end_ids) {  // as text it is not allowed even where the vocabulary has it as such
    const uint64_t bit = uint64_t{1} << (id % 64);
    uint64_t& word = mask[static_cast<size_t>(id) / 64];
    word = state_->can_end ? word | bit : word & ~bit;
  }
}

bool Constraint::accept(int32_t id) {
  TokenGrammar::Impl& g = *grammar_->impl_;
  const bool is_end = std::find(g.end_ids.begin(), g.end_ids.end(), id) != g.end_ids.end();
  if (state_->ended || (is_end && !state_->can_end)) return false;
  State next;
  next.ended = is_end;
  if (!is_end) {
    next = State{g.with_masks([&](TokenMasks& masks) { return masks.after(*state_, id); })};
    if (next.stacks.empty() && !next.can_end) return false;
  }
  state_ = std::make_shared<const State>(std::move(next));
  return true;
}

bool Constraint::can_end() const { return state_->can_end; }

}  // namespace sluice
