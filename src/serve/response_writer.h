// From the tokens of one or several texts to the body of a response, or to the events of a stream.
#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "engine/request.h"
#include "serve/json_text.h"

namespace sluice {

/// Token counts of a request, over all of its texts.
struct Usage {
  int64_t prompt = 0, cached = 0;          // each prompt counts once
  int64_t completion = 0, reasoning = 0;   // reasoning is part of completion
  int64_t proposed = 0, accepted = 0;      // drafts
  double prompt_seconds = 0, seconds = 0;  // until the first token without waiting in the queue, and from there on

  /// Adds what the engine says about one text. `counts_prompt`: it is the first one of its prompt.
  void add(const RequestResult& result, bool counts_prompt);
  /// OpenAI's and DeepSeek's fields; times and drafts in a field of our own, `sluice`.
  OrderedJson json() const;
};

/// What all responses of one request begin with.
struct ResponseHead {
  std::string id, model;
  int64_t created = 0;  // seconds since 1970
  bool stream = false, include_usage = false;
};

/// One response. Calls come one at a time. Functions with an `out` append events to it; without `stream` they append
/// nothing and body() gives all at the end.
class ResponseWriter {
 public:
  virtual ~ResponseWriter() = default;
  /// Log probabilities of the prompt of text `index`, or the next of them.
  virtual void prompt(size_t /*index*/, std::span<const TokenLogprobs> /*logprobs*/, std::string& /*out*/) {}
  /// The next token of text `index`. False when the text ends here: a stop string, or enough calls.
  virtual bool token(size_t index, const GeneratedToken& token) = 0;
  /// What tokens have given since the last time, an event or a few for each text.
  virtual void take(std::string& out) = 0;
  /// Text `index` is complete: what tokens have given it, and its end.
  virtual void finished(size_t index, const RequestResult& result, std::string& out) = 0;
  /// All texts are complete.
  virtual void end(std::string& out) = 0;
  virtual std::string body() = 0;
  virtual Usage usage() const = 0;
};

/// The text of a token as clients see it: UTF-8, what is none of it as U+FFFD.
std::string shown_token(std::string_view bytes);

/// A finite number: JSON has no infinity, and OpenAI's clients expect -9999 for the impossible.
double finite_logprob(float logprob);

}  // namespace sluice
