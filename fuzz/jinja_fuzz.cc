// Reads arbitrary bytes up to the first zero byte as a chat template and renders it for the rest, JSON (an ordinary
// chat where that is none). What is accepted must give the same text twice, within the bounds.
#include <algorithm>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "chat/jinja.h"

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

sluice::OrderedJson context_of(std::string_view json) {
  sluice::OrderedJson context;
  accept_errors([&] { context = sluice::parse_ordered_json(json, "context"); });
  if (context.is_object()) return context;
  return sluice::parse_ordered_json(
      R"({"messages": [{"role": "user", "content": "Hé\n"}, {"role": "assistant", "content": null, "tool_calls":
          [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}],
          "tools": [{"type": "function", "function": {"name": "f"}}], "add_generation_prompt": true, "bos_token": "<b>"})",
      "context");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\0'), size);
  accept_errors([&] {
    const sluice::ChatTemplate chat(input.substr(0, end), "f");
    const sluice::OrderedJson context = context_of(input.substr(std::min(end + 1, size)));
    const std::string text = chat.render(context);
    expect(text.size() < size_t{1} << 28);
    if (text.size() < 10'000) expect(chat.render(context) == text);
  });
  return 0;
}
