// Constrained decoding: which tokens may come next in a text that has to match a grammar.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "grammar/grammar.h"
#include "grammar/token_trie.h"

namespace sluice {

/// A grammar over the tokens of one vocabulary, with what has been computed for it: shared by all requests of the same
/// grammar, since the masks that one request has met are there for the next. May be used by several threads at once
/// (it locks itself). What it keeps is bounded, at about 24 MiB, and 32 more while a mask is made.
class TokenGrammar {
 public:
  /// `end_ids`: tokens that end a text, allowed exactly where the grammar is at an end; at least one. Throws Error when
  /// the grammar or `end_ids` names a token outside the vocabulary.
  TokenGrammar(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTrie> trie,
               std::vector<int32_t> end_ids);
  ~TokenGrammar();
  TokenGrammar(const TokenGrammar&) = delete;
  TokenGrammar& operator=(const TokenGrammar&) = delete;

  int32_t vocab_size() const;
  /// Memory of the grammar alone, about, which stays the same.
  size_t grammar_bytes() const;
  /// Memory of the grammar and of what has been computed for it, about.
  size_t bytes() const;

 private:
  friend class Constraint;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Where one text is in its grammar. A value: copying it is a few hundred bytes, and a copy goes its own way. There are
/// no dead ends: until an end token was accepted, at least one token is allowed, and any text of allowed tokens can be
/// completed. One thread at a time; different ones at once are fine.
class Constraint {
 public:
  /// At the beginning of the text.
  explicit Constraint(std::shared_ptr<TokenGrammar> grammar);

  /// Bit id % 64 of word id / 64 becomes 1 for tokens that may come next, 0 for all others and beyond the vocabulary.
  /// `mask` has at least vocab_size() bits; words beyond are cleared. After an end token all are 0.
  void allowed(std::span<uint64_t> mask) const;

  /// The next token of the text. False, and nothing changes, where it is not allowed (any id may be asked).
  bool accept(int32_t id);

  /// Whether the text may end here: the end tokens are allowed exactly then.
  bool can_end() const;

 private:
  struct State;

  std::shared_ptr<TokenGrammar> grammar_;
  std::shared_ptr<const State> state_;
};

}  // namespace sluice
