// Reads arbitrary bytes up to the first zero byte as tiktoken.model and encodes the rest: ids must be in range, and no
// byte may get lost.
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "formats/tiktoken.h"
#include "tokenizer/tiktoken.h"
#include "tokenizer/tokenizer.h"

namespace {

void expect(bool condition) {
  if (!condition) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\0'), size);
  const std::string_view text = input.substr(std::min(end + 1, size));
  try {
    const auto tokens = sluice::parse_tiktoken(input.substr(0, end), "f");
    const sluice::TokenizerFile file = sluice::tiktoken_file(tokens, {});
    expect(sluice::merges_of_ranks(file).size() <= tokens.size());
    const sluice::Tokenizer tokenizer(file);
    std::vector<int32_t> ids;
    tokenizer.encode(text, false, ids);
    for (const int32_t id : ids) expect(id >= 0 && id < tokenizer.vocab_size());
    expect(tokenizer.decode(ids, false) == text);
  } catch (const sluice::Error& e) {
    expect(std::string_view(e.what()).find('\n') == std::string_view::npos);  // messages are one line
  }
  return 0;
}
