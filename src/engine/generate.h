// The loop that writes: prompt in, tokens out, with speculative decoding by the MTP module (specification 4.3).
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/session.h"
#include "ops/sample.h"

namespace sluice {

/// Whether to draft. automatic: where the choice cannot change the text (temperature 0) as measured during the first
/// tokens, else always; never without an MTP module.
enum class Draft : uint8_t { off, on, automatic };

struct GenerateOptions {
  int64_t max_tokens = 256;
  SamplingRule rule;
  uint64_t seed = 0;
  int64_t vocab_limit = 0;         // ids from here on are never chosen; 0: the model's whole vocabulary
  std::vector<int32_t> stop_ids;   // end the text; not part of it
  Draft draft = Draft::automatic;  // anything but off needs a session that drafts
};

enum class Finish : uint8_t {
  stop_id,
  max_tokens,
  context_full,
  stopped,  // the receiver returned false
};

struct GenerateResult {
  Finish finish = Finish::max_tokens;
  int64_t prompt_tokens = 0, kept_tokens = 0;  // kept: were in the session already
  int64_t tokens = 0;                          // given to the receiver
  int64_t proposed = 0, accepted = 0;          // by the MTP module
  double prompt_seconds = 0, seconds = 0;      // until the first token; from there on
  bool drafting = false;                       // at the end
};

/// Receives tokens one by one; returns false to end the text after this one.
using TokenReceiver = std::function<bool(int32_t)>;

/// Rewinds the session to what it shares with `prompt`, feeds the rest, and generates. Throws Error when the prompt is
/// empty, has no room in the context or holds an id outside the vocabulary. Greedy text is the same with and without
/// drafting. Afterwards session.ids() holds prompt and text; the last token given away may not have been fed.
GenerateResult generate(Session& session, std::span<const int32_t> prompt, const GenerateOptions& options,
                        const TokenReceiver& receive);

}  // namespace sluice
