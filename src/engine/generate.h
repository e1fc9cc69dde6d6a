// The loop that writes: prompt in, tokens out, with speculative decoding: drafts of the MTP module (specification 4.3)
// or looked up in the text itself, checked several at a time in one pass of the model.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/draft_switch.h"
#include "engine/sampler.h"
#include "engine/session.h"
#include "ops/sample.h"

namespace sluice {

/// What drafts: the MTP module where the session has one, else looking up. The text is the same with all of them.
enum class Draft : uint8_t {
  off,
  on,
  automatic,  // on as long as it is measured to be faster
  lookup,     // on, looking up even if there is an MTP module
};

struct GenerateOptions {
  int64_t max_tokens = 256;
  SamplingRule rule;
  std::vector<LogitBias> logit_bias;
  uint64_t seed = 0;
  int64_t vocab_limit = 0;        // ids from here on are never chosen; 0: the model's whole vocabulary
  std::vector<int32_t> stop_ids;  // end the text; not part of it
  Draft draft = Draft::automatic;
};

enum class Finish : uint8_t {
  stop_id,
  max_tokens,
  context_full,  // no room to feed the last token
  stopped,       // the receiver returned false
  // Of a request to the scheduler alone (engine/scheduler.h):
  cancelled,
  expired,  // its deadline passed
  failed,   // an error; the others go on
};

struct GenerateResult {
  Finish finish = Finish::max_tokens;
  int64_t prompt_tokens = 0, kept_tokens = 0;  // kept: were in the session already
  int64_t tokens = 0;                          // given to the receiver
  int64_t proposed = 0, accepted = 0;          // drafts
  double prompt_seconds = 0, seconds = 0;      // until the first token; from there on
  bool measured_slower = false;                // Draft::automatic: drafting was off at the end because it was slower
};

/// Receives tokens one by one; returns false to end the text after this one.
using TokenReceiver = std::function<bool(int32_t)>;

/// Rewinds the session to what it shares with `prompt`, feeds the rest, and generates. Throws Error when the prompt is
/// empty, has no room in the context or holds an id outside the vocabulary. The text depends on prompt, rule, seed and
/// limits alone, not on drafts. Afterwards session.ids() holds prompt and text; the last token given away may not have
/// been fed. `drafting`: what Draft::automatic knows from texts before this one, for which it is not measured anew;
/// nullptr: nothing.
GenerateResult generate(Session& session, std::span<const int32_t> prompt, const GenerateOptions& options,
                        const TokenReceiver& receive, DraftSwitch* drafting = nullptr);

}  // namespace sluice
