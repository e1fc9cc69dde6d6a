#include "tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>

#include "base/error.h"

namespace sluice {
namespace {

constexpr size_t kJitStackBytes = size_t{1} << 20;
constexpr uint32_t kMatchLimit = 100'000'000;  // steps; a stage over megabytes of text needs some per character
constexpr uint32_t kHeapLimitKib = 1 << 18;

/// The members of a shorthand class where PCRE2 and Oniguruma, which the `tokenizers` package uses, disagree.
std::string_view shorthand(char letter) {
  switch (letter) {
    case 's':
    case 'S':
      return R"(\p{Z}\t-\r\x{85})";
    case 'w':
    case 'W':
      return R"(\p{L}\p{M}\p{N}\p{Pc})";
    case 'h':
    case 'H':
      return "0-9A-Fa-f";
    default:
      return {};
  }
}

/// A script: characters that belong to it. PCRE2 counts those that it shares with others, such as the ideographic full
/// stop, too.
constexpr std::string_view kHan = R"(\p{Han})";

/// Spells shorthand classes out and refuses classes inside classes.
std::string portable_pattern(const std::string& pattern, const std::string& where) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i], next = i + 1 < pattern.size() ? pattern[i + 1] : '\0';
    if (pattern.compare(i, kHan.size(), kHan) == 0) {
      out += R"(\p{sc:Han})";
      i += kHan.size() - 1;
      continue;
    }
    if (c == '\\' && i + 1 < pattern.size()) {
      ++i;
      const std::string_view members = shorthand(next);
      const bool negated = next >= 'A' && next <= 'Z';
      if (members.empty() || (negated && in_class)) {
        out += {c, next};
      } else {
        out += in_class ? std::string(members) : fmt::format("[{}{}]", negated ? "^" : "", members);
      }
      continue;
    }
    if (in_class && ((c == '[' && next != ':') || (c == '&' && next == '&')))
      fail("{}: expected a plain regex, found a class inside a class at byte {}", where, i);
    if (in_class && c == '[') {  // [:name:]
      const size_t close = pattern.find(":]", i);
      if (close == std::string::npos) fail("{}: expected a regex, found an open [: at byte {}", where, i);
      out += pattern.substr(i, close + 2 - i);
      i = close + 1;
      continue;
    }
    out += c;
    if (c == ']') in_class = false;
    if (c == '[' && !in_class) {
      in_class = true;
      if (next == '^') out += pattern[++i];
      if (i + 1 < pattern.size() && pattern[i + 1] == ']') out += pattern[++i];
    }
  }
  return out;
}

}  // namespace

struct RegexScratch::Impl {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 * 1024, kJitStackBytes, nullptr);

  Impl() {
    check(data && context && stack, "RegexScratch: out of memory");
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Impl() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
};

RegexScratch::RegexScratch() : impl_(std::make_unique<Impl>()) {}
RegexScratch::~RegexScratch() = default;
RegexScratch::RegexScratch(RegexScratch&& other) noexcept = default;
RegexScratch& RegexScratch::operator=(RegexScratch&& other) noexcept = default;

struct Regex::Impl {
  pcre2_code* code = nullptr;
  std::string where;
  ~Impl() { pcre2_code_free(code); }
};

Regex::Regex(const std::string& pattern, bool literal, const std::string& where) : impl_(std::make_unique<Impl>()) {
  const std::string source = literal ? pattern : portable_pattern(pattern, where);
  // In Oniguruma ^ and $ match at lines.
  const uint32_t options =
      PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_NEVER_BACKSLASH_C | PCRE2_UCP | PCRE2_MULTILINE);
  int error = 0;
  size_t offset = 0;
  impl_->where = where;
  impl_->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(source.data()), source.size(), options, &error, &offset, nullptr);
  if (!impl_->code) {
    std::array<PCRE2_UCHAR, 200> message{};
    pcre2_get_error_message(error, message.data(), message.size());
    fail("{}: expected a regex, found: {}", where, reinterpret_cast<const char*>(message.data()));
  }
  pcre2_jit_compile(impl_->code, PCRE2_JIT_COMPLETE);  // where it fails, matching is interpreted
}

Regex::~Regex() = default;
Regex::Regex(Regex&& other) noexcept = default;
Regex& Regex::operator=(Regex&& other) noexcept = default;

bool Regex::find(std::string_view text, size_t start, RegexScratch& scratch, size_t& begin, size_t& end) const {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const auto match = [&](uint32_t options) {
    return pcre2_match(impl_->code, subject, text.size(), start, options | PCRE2_NO_UTF_CHECK, scratch.impl_->data,
                       scratch.impl_->context);
  };
  int result = match(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  const size_t* range = pcre2_get_ovector_pointer(scratch.impl_->data);
  if (result < 0 || range[0] < start || range[1] < range[0])
    fail("{}: expected a regex that matches in few steps, found one that does not (error {})", impl_->where, result);
  begin = range[0];
  end = range[1];
  return true;
}

}  // namespace sluice
