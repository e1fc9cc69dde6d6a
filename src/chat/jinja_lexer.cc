#include "chat/jinja_lexer.h"

#include <algorithm>
#include <cctype>
#include <cstdint>

#include "base/error.h"

namespace sluice::jinja {
namespace {

using Kind = Token::Kind;

constexpr std::string_view kSpace = " \t\n\r\f\v";

/// As Jinja reads a file: one kind of line break, and none at the end.
std::string with_plain_lines(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
    out += source[i] == '\r' ? '\n' : source[i];
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

void append_utf8(std::string& out, uint32_t c) {
  const auto byte = [&](uint32_t bits) { out += static_cast<char>(bits); };
  if (c < 0x80) {
    byte(c);
  } else if (c < 0x800) {
    byte(0xC0 | (c >> 6)), byte(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    byte(0xE0 | (c >> 12)), byte(0x80 | ((c >> 6) & 0x3F)), byte(0x80 | (c & 0x3F));
  } else {
    byte(0xF0 | (c >> 18)), byte(0x80 | ((c >> 12) & 0x3F)), byte(0x80 | ((c >> 6) & 0x3F)), byte(0x80 | (c & 0x3F));
  }
}

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& name) : source_(with_plain_lines(source)), name_(name) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      read_text();
      if (at_ == source_.size()) break;
      const char kind = source_[at_ + 1];
      skip(2);
      if (kind != '{' && at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) skip(1);
      if (kind == '{' && at_ < source_.size() && source_[at_] == '-') skip(1);
      if (kind == '#') {
        read_comment();
      } else {
        read_tag(kind);
      }
    }
    add(Kind::end, "");
    return std::move(tokens_);
  }

 private:
  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}:{}: {}", name_, line_, fmt::format(format, std::forward<Args>(args)...));
  }

  std::string_view rest() const { return std::string_view(source_).substr(at_); }

  void skip(size_t n) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(at_ + n), '\n'));
    at_ += n;
  }

  void add(Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  /// Text up to the next tag, without what the tag's sign or lstrip_blocks takes away.
  void read_text() {
    size_t end = at_;
    do {
      end = std::min(source_.find('{', end), source_.size());
      if (end + 1 < source_.size() && (source_[end + 1] == '{' || source_[end + 1] == '%' || source_[end + 1] == '#'))
        break;
    } while (end++ < source_.size());
    end = std::min(end, source_.size());
    std::string_view text = std::string_view(source_).substr(at_, end - at_);
    if (end < source_.size()) {
      const char kind = source_[end + 1], sign = end + 2 < source_.size() ? source_[end + 2] : ' ';
      const size_t last = text.find_last_not_of(sign == '-' ? kSpace : " \t\r\f\v");
      const size_t kept = last == text.npos ? 0 : last + 1;
      const bool at_line_start = kept == 0 ? starts_line_ : text[kept - 1] == '\n';
      if (sign == '-' || (kind != '{' && sign != '+' && at_line_start)) text = text.substr(0, kept);
    }
    if (!text.empty()) add(Kind::text, std::string(text));
    skip(end - at_);
  }

  /// White space after the end of a tag that is taken away.
  void skip_after(char sign, bool is_print) {
    size_t n = 0;
    if (sign == '-') n = std::min(rest().find_first_not_of(kSpace), rest().size());
    if (sign == ' ' && !is_print && rest().starts_with('\n')) n = 1;
    starts_line_ = n > 0 && source_[at_ + n - 1] == '\n';
    skip(n);
  }

  void read_comment() {
    const size_t end = rest().find("#}");
    if (end == std::string_view::npos) refuse("a comment is not closed");
    const char before = end > 0 ? rest()[end - 1] : ' ';
    skip(end + 2);
    skip_after(before == '-' || before == '+' ? before : ' ', false);
  }

  void read_tag(char kind) {
    const bool is_print = kind == '{';
    add(is_print ? Kind::print_begin : Kind::tag_begin, "");
    int open = 0;  // brackets: "}}" may end two mappings
    for (;;) {
      skip(std::min(rest().find_first_not_of(kSpace), rest().size()));
      if (rest().empty()) refuse("a tag is not closed");
      const char sign = rest()[0] == '-' || (rest()[0] == '+' && !is_print) ? rest()[0] : ' ';
      if (open == 0 && rest().substr(sign == ' ' ? 0 : 1).starts_with(is_print ? "}}" : "%}")) {
        add(is_print ? Kind::print_end : Kind::tag_end, "");
        skip(sign == ' ' ? 2 : 3);
        return skip_after(sign, is_print);
      }
      read_token();
      const std::string& text = tokens_.back().text;
      if (tokens_.back().kind != Kind::symbol) continue;
      if (text == "(" || text == "[" || text == "{") ++open;
      if ((text == ")" || text == "]" || text == "}") && --open < 0) refuse("found {} without its beginning", text);
    }
  }

  void read_token() {
    const auto c = static_cast<unsigned char>(rest()[0]);
    if (std::isalpha(c) || c == '_') {
      size_t n = 1;
      while (n < rest().size() && (std::isalnum(static_cast<unsigned char>(rest()[n])) || rest()[n] == '_')) ++n;
      add(Kind::name, std::string(rest().substr(0, n)));
      return skip(n);
    }
    if (std::isdigit(c)) return read_number();
    if (c == '\'' || c == '"') return read_string();
    for (const std::string_view symbol : {"==", "!=", "<=", ">=", "//", "+", "-", "*", "/", "%", "~", "(",
                                          ")",  "[",  "]",  "{",  "}",  ".", ",", ":", "|", "=", "<", ">"})
      if (rest().starts_with(symbol)) {
        if (rest().starts_with("**")) refuse("the operator ** is not supported");
        add(Kind::symbol, std::string(symbol));
        return skip(symbol.size());
      }
    refuse("unexpected character {:?}", rest().substr(0, 1));
  }

  void read_number() {
    const auto digits = [&](size_t from) {
      while (from < rest().size() && std::isdigit(static_cast<unsigned char>(rest()[from]))) ++from;
      return from;
    };
    size_t n = digits(0);
    Kind kind = Kind::integer;
    if (n + 1 < rest().size() && rest()[n] == '.' && std::isdigit(static_cast<unsigned char>(rest()[n + 1]))) {
      n = digits(n + 1);
      kind = Kind::real;
    }
    if (n < rest().size() && (std::isalpha(static_cast<unsigned char>(rest()[n])) || rest()[n] == '_'))
      refuse("malformed number {:?}", rest().substr(0, std::min<size_t>(n + 1, 40)));
    add(kind, std::string(rest().substr(0, n)));
    skip(n);
  }

  void read_string() {
    const char quote = rest()[0];
    std::string text;
    size_t i = 1;
    for (;; ++i) {
      if (i >= rest().size()) refuse("a string is not closed");
      if (rest()[i] == quote) break;
      if (rest()[i] == '\\') {
        i = read_escape(i + 1, text);
      } else {
        text += rest()[i];
      }
    }
    if (!tokens_.empty() && tokens_.back().kind == Kind::string) {
      tokens_.back().text += text;  // neighbours are one string, as in Python
    } else {
      add(Kind::string, std::move(text));
    }
    skip(i + 1);
  }

  /// Appends what the escape sequence behind the backslash at `i` - 1 stands for; returns its last character.
  size_t read_escape(size_t i, std::string& text) const {
    if (i >= rest().size()) refuse("a string is not closed");
    const char c = rest()[i];
    static constexpr std::string_view kNames = "nrtabfv\\'\"\n", kValues = "\n\r\t\a\b\f\v\\'\"";
    if (const size_t known = kNames.find(c); known != kNames.npos) {
      if (known < kValues.size()) text += kValues[known];
      return i;
    }
    const size_t length = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (length == 0) {
      if (std::isdigit(static_cast<unsigned char>(c)) || c == 'N') refuse("the escape \\{} is not supported", c);
      text.append({'\\', c});
      return i;
    }
    uint32_t code = 0;
    for (size_t k = 1; k <= length; ++k) {
      const char digit = i + k < rest().size() ? rest()[i + k] : ' ';
      if (!std::isxdigit(static_cast<unsigned char>(digit))) refuse("malformed escape \\{}", c);
      code = code * 16 + static_cast<uint32_t>(digit <= '9' ? digit - '0' : (digit | 0x20) - 'a' + 10);
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) refuse("the escape \\{} is no character", c);
    append_utf8(text, code);
    return i + length;
  }

  const std::string source_;
  const std::string& name_;
  size_t at_ = 0;
  int line_ = 1;
  bool starts_line_ = true;  // text that begins here is at the start of a line
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, const std::string& name) { return Lexer(source, name).run(); }

}  // namespace sluice::jinja
