// The model that is served, and where its texts come from.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "chat/messages.h"
#include "engine/scheduler.h"
#include "grammar/token_trie.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

/// What the server asks of the engine: Scheduler's functions of the same names, which may be called from any thread.
class TextSource {
 public:
  virtual ~TextSource() = default;
  virtual Submission submit(Request request) = 0;
  virtual void cancel(uint64_t id) = 0;
  virtual SchedulerStats stats() const = 0;
};

struct ServedModel {
  std::vector<std::string> names;  // at least one; all mean this model, the first is its own
  const Tokenizer& tokenizer;
  ChatFormat chat;
  std::shared_ptr<const TokenTrie> trie;  // of the tokenizer
  int64_t context = 0;                    // most tokens of prompt and text
  GenerateOptions defaults;               // stop_ids, vocab_limit and rule; max_tokens: the context
  int64_t created = 0;                    // seconds since 1970
  TextSource* texts = nullptr;            // not owned
};

}  // namespace sluice
