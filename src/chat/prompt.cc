#include "chat/prompt.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace sluice {
namespace {

// Around text that is not to be read as tokens, through the template. Noncharacters (U+10FFFE, U+10FFFF), which no text
// that is interchanged has: those of a message are left out.
constexpr std::string_view kOpen = "\xf4\x8f\xbf\xbe", kClose = "\xf4\x8f\xbf\xbf";

std::string without_marks(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const std::string_view rest = text.substr(at);
    const bool is_mark = rest.starts_with(kOpen) || rest.starts_with(kClose);
    if (!is_mark) out += text[at];
    at += is_mark ? kOpen.size() : 1;
  }
  return out;
}

std::string guarded(std::string_view message, const Tokenizer& tokenizer) {
  const std::string text = without_marks(message);
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t n = tokenizer.added_token_at(text, at);
    if (n > 0) out.append(kOpen).append(text, at, n).append(kClose);
    if (n == 0) out += text[at];
    at += std::max<size_t>(n, 1);
  }
  return out;
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  while (!text.empty()) {
    const size_t open = text.find(kOpen);
    tokenizer.encode(text.substr(0, open), true, ids);
    text.remove_prefix(open == text.npos ? text.size() : open + kOpen.size());
    if (open == text.npos) break;
    const size_t close = text.find(kClose);
    tokenizer.encode(text.substr(0, close), false, ids);
    text.remove_prefix(close == text.npos ? text.size() : close + kClose.size());
  }
  return ids;
}

}  // namespace

EncodedPrompt encode_prompt(const ChatFormat& format, const Tokenizer& tokenizer, ChatRequest request, int64_t now) {
  for (OrderedJson& message : request.messages) {
    const bool is_foreign = message["role"] == "user" || message["role"] == "tool";
    if (is_foreign && message["content"].is_string())
      message["content"] = guarded(message["content"].get<std::string>(), tokenizer);
  }
  ChatPrompt prompt = format.prompt(request, now);
  try {
    return {encode(tokenizer, prompt.text), std::move(prompt.answer)};
  } catch (const Error& e) {
    fail("messages: {}", e.what());
  }
}

}  // namespace sluice
