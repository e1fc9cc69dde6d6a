// One text that is asked of the scheduler: what is wanted, and what comes back.
#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/generate.h"
#include "engine/token_constraint.h"

namespace sluice {

/// Most alternatives of a token whose probabilities can be asked for.
constexpr int64_t kMostTopLogprobs = 20;

/// log softmax of the model's logits as they are: before bias, penalties, temperature and constraint.
struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
};

struct TokenLogprobs {
  TokenLogprob token;             // the one at this place
  std::vector<TokenLogprob> top;  // the most probable ids below the vocabulary limit, most probable first
};

/// A token of the text.
struct GeneratedToken {
  int32_t id = 0;
  int64_t index = 0;                        // in the text, from 0
  const TokenLogprobs* logprobs = nullptr;  // where wanted; valid during the call
};

struct RequestResult {
  Finish finish = Finish::max_tokens;
  std::string error;                             // Finish::failed: one line
  bool is_mistake = false;                       // Finish::failed: by a mistake of who asked
  int64_t prompt_tokens = 0, cached_tokens = 0;  // cached: beginning of the prompt that was found in the prefix cache
  int64_t tokens = 0;                            // given to the receiver
  int64_t proposed = 0, accepted = 0;            // drafts
  int64_t preemptions = 0;                       // times it gave its pages to others and was computed again
  double queue_seconds = 0;                      // from submission until it ran
  double first_token_seconds = 0;                // from submission until its first token; 0 when it had none
  double seconds = 0;                            // from submission until its end
};

/// Receives what a request yields, on the scheduler's thread, which waits: calls return soon. They may call
/// Scheduler::submit() and cancel(). What prompt() or token() throws ends the text with Finish::failed; finished()
/// throws nothing.
class RequestReceiver {
 public:
  virtual ~RequestReceiver() = default;

  /// Log probabilities of the prompt's tokens from the second on (the first has none), in order, in one or several
  /// calls, before the first token. Only where Request::prompt_logprobs is set.
  virtual void prompt(std::span<const TokenLogprobs> /*logprobs*/) {}

  /// The next token of the text; stop ids are not given. Returns false to end the text after it (Finish::stopped): no
  /// further token is given, not even one that was computed already.
  virtual bool token(const GeneratedToken& token) = 0;

  /// The request is over: the last call, made exactly once for every request that was accepted.
  virtual void finished(const RequestResult& result) = 0;
};

struct Request {
  std::vector<int32_t> prompt;
  GenerateOptions options;  // max_tokens 0: nothing but the prompt's log probabilities; `draft` is honoured as far as
                            // drafting pays, Draft::off always
  std::optional<int64_t> top_logprobs;  // log probabilities of the text, with so many alternatives (0: none, just the
                                        // token's own); at most kMostTopLogprobs
  bool prompt_logprobs = false;  // those of the prompt too; it is computed in full then, not taken from the cache
  std::unique_ptr<TokenConstraint> constraint;  // or none
  std::string client;                           // whose turn it is in the queue is decided among these
  std::optional<std::chrono::steady_clock::time_point> deadline;  // ends it with Finish::expired
  std::shared_ptr<RequestReceiver> receiver;                      // not null
};

}  // namespace sluice
