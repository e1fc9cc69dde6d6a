#include "serve/response_writer.h"

#include <algorithm>

#include "chat/text_stream.h"

namespace sluice {

void Usage::add(const RequestResult& r, bool counts_prompt) {
  if (counts_prompt) prompt += r.prompt_tokens, cached += r.cached_tokens;
  proposed += r.proposed, accepted += r.accepted;
  const double first = r.tokens > 0 ? r.first_token_seconds : r.seconds;
  prompt_seconds = std::max(prompt_seconds, first - r.queue_seconds);
  seconds = std::max(seconds, r.seconds - first);
}

OrderedJson Usage::json() const {
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"prompt_tokens_details", {{"cached_tokens", cached}}},
          {"completion_tokens_details", {{"reasoning_tokens", reasoning}}},
          {"prompt_cache_hit_tokens", cached},
          {"prompt_cache_miss_tokens", prompt - cached},
          {"sluice",
           {{"prompt_seconds", prompt_seconds},
            {"generation_seconds", seconds},
            {"draft_proposed", proposed},
            {"draft_accepted", accepted}}}};
}

std::string shown_token(std::string_view bytes) {
  Utf8Stream utf8;
  std::string text = utf8.push(bytes);
  return text + utf8.finish();
}

double finite_logprob(float logprob) { return logprob > -9999.f ? static_cast<double>(logprob) : -9999.0; }

}  // namespace sluice
