// Answers that are held to a form: JSON by a schema, and the arguments of a call that the request demands.
#pragma once
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "grammar/constraint.h"
#include "serve/chat_completion.h"
#include "serve/served_model.h"

namespace sluice {

/// Compiled grammars, the ones used last. Any thread.
class GrammarCache {
 public:
  /// The grammar of `part` for the model's tokens, compiled unless it is there under `key`, which must name part and
  /// model completely. Throws Error as Grammar does, which names `where`.
  std::shared_ptr<TokenGrammar> get(const std::string& key, const ServedModel& model, const GrammarPart& part,
                                    const std::string& where);

 private:
  std::mutex mutex_;
  std::list<std::pair<std::string, std::shared_ptr<TokenGrammar>>> recent_;  // the latest first
};

/// What the answer to `request` is held to, or null. `format` comes with its prompt. Throws ApiError for schemas and
/// combinations that cannot be guaranteed.
std::shared_ptr<TokenGrammar> answer_grammar(const ChatCompletion& request, const AnswerFormat& format,
                                             const ServedModel& model, GrammarCache& cache);

/// One text under a grammar.
class GrammarConstraint final : public TokenConstraint {
 public:
  explicit GrammarConstraint(std::shared_ptr<TokenGrammar> grammar) : constraint_(std::move(grammar)) {}
  void mask(std::span<uint64_t> allowed) override { constraint_.allowed(allowed); }
  void accept(int32_t id) override;
  bool can_end() const override { return constraint_.can_end(); }

 private:
  Constraint constraint_;
};

}  // namespace sluice
