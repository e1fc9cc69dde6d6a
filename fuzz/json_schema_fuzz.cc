// Compiles arbitrary bytes up to the first zero byte as a JSON schema; the rest chooses among the tokens that are
// allowed. There must always be one, masks and accept() must agree, and what has come to an end must be JSON.
#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "../tests/grammar/walk.h"
#include "base/error.h"

namespace {

void expect(bool condition) {
  if (!condition) __builtin_trap();
}

/// Follows the bytes of `choices`; the text so far is a part of JSON.
void walk(sluice::Constraint c, std::string_view choices) {
  const sluice::Vocabulary& vocabulary = sluice::json_vocabulary();
  std::string text;
  for (size_t i = 0; i < choices.size() && i < 100; ++i) {
    const auto ids = vocabulary.allowed(c);
    if (ids.empty()) {  // after an end token, never before
      expect(nlohmann::json::accept(text));
      return;
    }
    const auto choice = static_cast<uint8_t>(choices[i]);
    const auto other = static_cast<int32_t>((choice * 7u + i) % vocabulary.tokens.size());
    sluice::Constraint copy = c;
    expect(copy.accept(other) == std::binary_search(ids.begin(), ids.end(), other));
    const int32_t id = ids[choice % ids.size()];
    expect(c.accept(id));
    text += vocabulary.tokens[static_cast<size_t>(id)];
    if (c.can_end()) expect(nlohmann::json::accept(text));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\0'), size);
  try {
    const auto part = sluice::GrammarPart::json(std::string(input.substr(0, end)));
    const sluice::Constraint begin = sluice::json_vocabulary().constraint(part);
    walk(begin, input.substr(std::min(end + 1, size)));
    // A text that chance writes may take long to come to an end; when it does not, that is no mistake.
    const auto text = sluice::random_text(sluice::json_vocabulary(), begin, size, 20, 150);
    expect(!text || nlohmann::json::accept(*text));
  } catch (const sluice::Error& e) {
    expect(std::string_view(e.what()).find('\n') == std::string_view::npos);  // messages are one line
  }
  return 0;
}
