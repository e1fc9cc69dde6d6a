// Answers that are held to a form: JSON by a schema, and the arguments of a call that the request demands.
#pragma once
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "grammar/constraint.h"
#include "serve/chat_completion.h"
#include "serve/served_model.h"

namespace sluice {

/// Compiled grammars, the ones used last, with the masks that were found for them. Any thread.
class GrammarCache {
 public:
  /// Keeps at most so many bytes, besides the grammar used last.
  explicit GrammarCache(size_t most_bytes = size_t{128} << 20) : most_bytes_(most_bytes) {}

  /// The grammar of `part`, which ends with one of the model's stop ids; compiled unless it is there under `key`, which
  /// must name the part completely: the model is always the same. `work` grows by what compiling it took, also where it
  /// was there. Throws Error as Grammar does, which names `where`.
  std::shared_ptr<TokenGrammar> get(const std::string& key, const ServedModel& model, const GrammarPart& part,
                                    const std::string& where, size_t& work);

  /// Memory of all, about.
  size_t bytes() const;

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<TokenGrammar> grammar;  // or none: it is not possible
    std::string error;
    size_t work = 0;

    size_t bytes() const;
  };
  using Entries = std::list<Entry>;

  static std::shared_ptr<TokenGrammar> result(const Entry& entry, size_t& work);
  void trim();

  const size_t most_bytes_;
  mutable std::mutex mutex_;
  Entries recent_;  // the latest first
};

/// Makes the constraint of one text; empty: there is none.
using ConstraintMaker = std::function<std::unique_ptr<TokenConstraint>()>;

/// What the answer to `request` is held to. `format` comes with its prompt. Throws ApiError for schemas and
/// combinations that cannot be guaranteed.
ConstraintMaker answer_constraint(const ChatCompletion& request, const AnswerFormat& format, const ServedModel& model,
                                  GrammarCache& cache);

}  // namespace sluice
