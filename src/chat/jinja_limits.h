// The bounds of a chat template, and what keeps a rendering within them.
#pragma once
#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/error.h"

namespace sluice::jinja {

constexpr size_t kMaxSource = size_t{1} << 18;    // bytes of a template; the largest public ones have 20 thousand
constexpr int kMaxTreeDepth = 100;                // nested tags and expressions
constexpr int kMaxEvaluationDepth = 500;          // the same while rendering, macros that call macros included
constexpr int kMaxValueDepth = 100;               // lists in lists; a context has at most 64
constexpr size_t kMaxSteps = size_t{5} << 20;     // a fraction of a second; 10,000 messages take a fifth of it
constexpr size_t kMaxMemory = size_t{256} << 20;  // bytes of all strings and lists that a rendering makes

/// What one rendering has spent, and where it is. An operation whose work grows with its operands says so.
class Meter {
 public:
  Meter(const std::string& template_name, int64_t time) : now(time), name_(template_name) {}

  /// Throws Error when there have been too many steps.
  void step(size_t n = 1) {
    steps_ += n;
    if (steps_ > kMaxSteps) refuse("the template takes more than {} steps", kMaxSteps);
  }
  /// Work on so many bytes of text that are there already.
  void scan(size_t bytes) { step(1 + bytes / 32); }
  /// A search for `part` bytes in `text` bytes, whose worst case is their product.
  void search(size_t text, size_t part) { step(1 + text / 32 * (1 + part / 32)); }
  /// So many bytes are about to be made. Throws Error when there are too many.
  void grow(size_t bytes) {
    memory_ += bytes;
    if (memory_ > kMaxMemory) refuse("the template makes more than {} bytes", kMaxMemory);
    scan(bytes);
  }
  /// Throws Error "<template>:<line>: ...".
  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    refuse_text(fmt::format(format, std::forward<Args>(args)...));
  }

  int line = 1;       // of the template, of what is being done
  const int64_t now;  // seconds since 1970

 private:
  /// Names and texts of a template may have line breaks, messages do not.
  [[noreturn]] void refuse_text(std::string text) const {
    for (char& c : text)
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
    fail("{}:{}: {}", name_, line, text.substr(0, 500));
  }

  const std::string& name_;
  size_t steps_ = 0, memory_ = 0;
};

}  // namespace sluice::jinja
