// How many log probabilities a response may hold until it is sent.
#pragma once
#include <cstddef>

#include "base/error.h"
#include "engine/request.h"

namespace sluice {

/// Of all texts of a request, alternatives included: 15 MB as JSON, for which the scheduler waits some 0.15 s. A stream
/// sends what it has.
constexpr size_t kMostLogprobs = 200'000;

/// Adds `more` to `kept`. Throws Error when these are too many, which ends the text.
inline void count_logprobs(size_t& kept, const TokenLogprobs& more) {
  kept += 1 + more.top.size();
  if (kept > kMostLogprobs)
    fail("logprobs: a response that is not streamed can have {} of them, alternatives included", kMostLogprobs);
}

}  // namespace sluice
