// What a text is held to token by token, as by a grammar. The engine knows no grammars; it asks one of these.
#pragma once
#include <cstdint>
#include <span>

namespace sluice {

/// The state of one text under its constraint. Used by one thread at a time, though not always the same one.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;

  /// Overwrites `allowed`: bit id % 64 of word id / 64 says whether id may come next. It has a word for every id below
  /// the request's vocabulary limit; bits from the limit on are ignored. Stop ids are not the constraint's concern:
  /// they are allowed where can_end() says so and nowhere else. Where nothing is allowed, the text ends.
  virtual void mask(std::span<uint64_t> allowed) = 0;

  /// `id`, which mask() allowed, was chosen and is in the text now. Never called with a stop id.
  virtual void accept(int32_t id) = 0;

  /// Whether the text may end here.
  virtual bool can_end() const = 0;
};

}  // namespace sluice
