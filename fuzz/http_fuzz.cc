// Reads arbitrary bytes as the body of a chat completion and of a text completion, and as a file of keys. What is
// accepted must lie in the documented ranges.
#include <cmath>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "serve/api_error.h"
#include "serve/api_key.h"
#include "serve/chat_completion.h"
#include "serve/completion.h"

namespace {

constexpr int64_t kVocab = 1000;

void expect(bool condition) {
  if (!condition) __builtin_trap();
}

template <class F>
void accept_errors(F&& fn) {
  try {
    fn();
  } catch (const sluice::ApiError& e) {
    expect(e.status == 400);
    expect(std::string_view(e.what()).find('\n') == std::string_view::npos);  // messages are one line
    expect(!sluice::error_body(e).empty());
  } catch (const sluice::Error& e) {
    expect(std::string_view(e.what()).find('\n') == std::string_view::npos);
  }
}

void check_text(const sluice::TextRequest& r) {
  const sluice::SamplingRule& rule = r.options.rule;
  expect(rule.temperature >= 0 && rule.temperature <= 2 && rule.top_p > 0 && rule.top_p <= 1);
  expect(rule.min_p >= 0 && rule.min_p <= 1 && rule.top_k >= 0 && rule.repetition_penalty > 0);
  expect(std::abs(rule.frequency_penalty) <= 2 && std::abs(rule.presence_penalty) <= 2);
  expect(r.num_texts >= 1 && r.num_texts <= sluice::kMostTexts && r.options.max_tokens >= 0);
  expect(r.stops.size() <= sluice::kMostStops);
  for (const std::string& stop : r.stops) expect(!stop.empty() && stop.size() <= sluice::kMostStopBytes);
  for (const sluice::LogitBias& b : r.options.logit_bias) expect(b.id >= 0 && b.id < kVocab && std::abs(b.bias) <= 100);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  sluice::GenerateOptions defaults;
  defaults.vocab_limit = kVocab;
  accept_errors([&] {
    const sluice::ChatCompletion c = sluice::parse_chat_completion(sluice::parse_body(input), defaults);
    check_text(c.text);
    expect(!c.chat.messages.empty());
  });
  accept_errors([&] {
    const sluice::Completion c = sluice::parse_completion(sluice::parse_body(input), defaults);
    check_text(c.text);
    expect(!c.prompts.empty());
    for (const sluice::CompletionPrompt& p : c.prompts)
      if (const auto* ids = std::get_if<std::vector<int32_t>>(&p))
        for (const int32_t id : *ids) expect(id >= 0 && id < kVocab);
  });
  accept_errors([&] { expect(!sluice::parse_api_keys(input, "f").empty()); });
  return 0;
}
