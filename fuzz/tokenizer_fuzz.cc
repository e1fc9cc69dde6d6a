// Reads arbitrary bytes up to the first zero byte as tokenizer.json (and as tokenizer_config.json) and encodes the
// rest. What is accepted must survive being written and read again, ids must be in range, and no byte may get lost.
#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "formats/tokenizer_json.h"
#include "tokenizer/tokenizer.h"

namespace {

void expect(bool condition) {
  if (!condition) __builtin_trap();
}

template <class F>
void accept_errors(F&& fn) {
  try {
    fn();
  } catch (const sluice::Error& e) {
    expect(std::string_view(e.what()).find('\n') == std::string_view::npos);  // messages are one line
  }
}

/// Whether every stage keeps every byte.
bool is_lossless(const sluice::TokenizerFile& file) {
  return std::none_of(file.stages.begin(), file.stages.end(), [](const sluice::PreTokenizerStage& stage) {
    return stage.add_prefix_space || stage.behavior == sluice::SplitBehavior::removed;
  });
}

void check_text(const sluice::TokenizerFile& file, std::string_view text) {
  const sluice::Tokenizer tokenizer(file);
  for (const bool parse_special : {false, true}) {
    std::vector<int32_t> ids;
    tokenizer.encode(text, parse_special, ids);
    for (const int32_t id : ids) expect(id >= 0 && id < tokenizer.vocab_size());
    const std::string decoded = tokenizer.decode(ids, false);
    if (!parse_special && is_lossless(file)) expect(decoded == text);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\0'), size);
  const std::string_view json = input.substr(0, end), text = input.substr(std::min(end + 1, size));
  accept_errors([&] {
    const sluice::TokenizerFile file = sluice::parse_tokenizer_json(json, "f");
    const sluice::TokenizerFile again = sluice::parse_tokenizer_json(sluice::format_tokenizer_json(file), "g");
    expect(again.vocab == file.vocab && again.merges == file.merges);
    expect(again.added_tokens.size() == file.added_tokens.size() && again.stages.size() == file.stages.size());
    check_text(file, text);
  });
  accept_errors([&] {
    const sluice::TokenizerConfig config = sluice::parse_tokenizer_config(json, "f");
    sluice::parse_tokenizer_config(sluice::format_tokenizer_config(config), "g");
  });
  return 0;
}
