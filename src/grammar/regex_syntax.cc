#include "grammar/regex_syntax.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "tokenizer/byte_level.h"

namespace sluice {
namespace {

constexpr size_t kMaxPattern = 4096;
constexpr int kMaxDepth = 32;
constexpr uint32_t kMaxRepeat = 1000;
constexpr char32_t kLast = 0x10FFFF;

using Ranges = std::vector<CharRange>;

Ranges normalized(Ranges ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const CharRange& a, const CharRange& b) { return a.lo < b.lo; });
  Ranges out;
  for (const CharRange& r : ranges)
    if (!out.empty() && r.lo <= out.back().hi + 1) {
      out.back().hi = std::max(out.back().hi, r.hi);
    } else {
      out.push_back(r);
    }
  return out;
}

Ranges complement(const Ranges& ranges) {
  Ranges out;
  char32_t next = 0;
  for (const CharRange& r : normalized(ranges)) {
    if (r.lo > next) out.push_back({next, r.lo - 1});
    next = r.hi + 1;
  }
  if (next <= kLast) out.push_back({next, kLast});
  return out;
}

const Ranges kDigits = {{'0', '9'}};
const Ranges kWord = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const Ranges kSpace = {{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
                       {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const Ranges kLineEnds = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

RegexNode characters(Ranges ranges) {
  RegexNode node;
  node.kind = RegexNode::Kind::characters;
  node.characters = normalized(std::move(ranges));
  return node;
}

RegexNode anything() {
  RegexNode node;
  node.kind = RegexNode::Kind::repeat;
  node.parts = {characters({{0, kLast}})};
  node.max = RegexNode::kUnbounded;
  return node;
}

class RegexParser {
 public:
  RegexParser(std::string_view pattern, const std::string& where) : where_(where) {
    if (pattern.size() > kMaxPattern) fail("{}: expected at most {} bytes", where, kMaxPattern);
    for (size_t i = 0; i < pattern.size();) {
      const size_t length = utf8_length(pattern.substr(i));
      if (length == 0) fail("{}: expected UTF-8", where);
      text_ += utf8_decode(pattern.substr(i, length));
      i += length;
    }
  }

  RegexNode parse() {
    RegexNode node = choice(0);
    if (at_ < text_.size()) refuse("an unmatched )");
    return node;
  }

 private:
  [[noreturn]] void refuse(const char* what) const {
    fail("{}: {} at character {} is not supported in a pattern", where_, what, at_);
  }
  bool is_next(char32_t c) const { return at_ < text_.size() && text_[at_] == c; }
  bool take(char32_t c) {
    if (!is_next(c)) return false;
    ++at_;
    return true;
  }
  char32_t next(const char* what) {
    if (at_ >= text_.size()) refuse(what);
    return text_[at_++];
  }

  RegexNode choice(int depth) {
    if (depth > kMaxDepth) refuse("nesting this deep");
    RegexNode node;
    node.kind = RegexNode::Kind::choice;
    node.parts.push_back(sequence(depth));
    while (take('|')) node.parts.push_back(sequence(depth));
    return node;
  }

  /// One alternative. Anchors are known at its ends only, and only outside of groups.
  RegexNode sequence(int depth) {
    RegexNode node;
    if (depth == 0 && !take('^')) node.parts.push_back(anything());
    bool anchored = depth > 0;
    while (at_ < text_.size() && !is_next('|') && !is_next(')')) {
      if (depth == 0 && is_next('$') && (at_ + 1 == text_.size() || text_[at_ + 1] == '|')) {
        ++at_;
        anchored = true;
        break;
      }
      node.parts.push_back(repeated(atom(depth)));
    }
    if (!anchored) node.parts.push_back(anything());
    return node;
  }

  RegexNode repeated(RegexNode node) {
    uint32_t min = 0, max = RegexNode::kUnbounded;
    if (take('?')) {
      max = 1;
    } else if (take('+')) {
      min = 1;
    } else if (take('{')) {
      min = count();
      max = !take(',') ? min : is_next('}') ? RegexNode::kUnbounded : count();
      if (!take('}') || max < min) refuse("this repetition");
    } else if (!take('*')) {
      return node;
    }
    take('?');  // how much a lazy one takes first does not matter
    if (is_next('*') || is_next('+') || is_next('?') || is_next('{')) refuse("a repetition of a repetition");
    RegexNode out;
    out.kind = RegexNode::Kind::repeat;
    out.parts.push_back(std::move(node));
    out.min = min;
    out.max = max;
    return out;
  }

  uint32_t count() {
    uint32_t value = 0;
    const size_t begin = at_;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      value = value * 10 + (text_[at_] - '0');
      if (value > kMaxRepeat) refuse("a count of more than 1000");
    }
    if (at_ == begin) refuse("a brace without a count");
    return value;
  }

  RegexNode atom(int depth) {
    const char32_t c = next("the end");
    switch (c) {
      case '.':
        return characters(complement(kLineEnds));
      case '[':
        return characters(char_class());
      case '(':
        return group(depth);
      case '\\':
        return characters(escape(false));
      case '^':
      case '$':
        refuse("an anchor inside of an alternative or a group");
      case '*':
      case '+':
      case '?':
      case '{':
        refuse("a repetition of nothing");
      default:
        return characters({{c, c}});
    }
  }

  RegexNode group(int depth) {
    if (take('?')) {
      if (take('<')) {  // a name, unless it is a look-behind
        if (is_next('=') || is_next('!')) refuse("a look-behind");
        while (next("a group without an end") != '>') continue;
      } else if (!take(':')) {
        refuse("a look-ahead or a flag");
      }
    }
    RegexNode node = choice(depth + 1);
    if (!take(')')) refuse("a group without an end");
    return node;
  }

  Ranges char_class() {
    const bool negated = take('^');
    Ranges ranges;
    while (!take(']')) {
      const Ranges first = class_item();
      const bool single = first.size() == 1 && first[0].lo == first[0].hi;
      if (single && is_next('-') && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
        ++at_;
        const Ranges last = class_item();
        if (last.size() != 1 || last[0].lo != last[0].hi || last[0].lo < first[0].lo) refuse("this range");
        ranges.push_back({first[0].lo, last[0].hi});
      } else {
        ranges.insert(ranges.end(), first.begin(), first.end());
      }
    }
    return negated ? complement(ranges) : ranges;
  }

  Ranges class_item() {
    const char32_t c = next("a class without an end");
    if (c == '\\') return escape(true);
    return {{c, c}};
  }

  Ranges escape(bool in_class) {
    const char32_t c = next("a backslash at the end");
    switch (c) {
      case 'd':
        return kDigits;
      case 'D':
        return complement(kDigits);
      case 'w':
        return kWord;
      case 'W':
        return complement(kWord);
      case 's':
        return kSpace;
      case 'S':
        return complement(kSpace);
      default:
        const char32_t value = escaped_character(c, in_class);
        return {{value, value}};
    }
  }

  char32_t escaped_character(char32_t c, bool in_class) {
    static constexpr std::pair<char, char> kControls[] = {
        {'n', '\n'}, {'r', '\r'}, {'t', '\t'}, {'f', '\f'}, {'v', '\v'}};
    for (const auto& [letter, value] : kControls)
      if (c == static_cast<char32_t>(letter)) return static_cast<char32_t>(value);
    if (c == 'b' && in_class) return '\b';
    if (c == 'x') return hex(2);
    if (c == 'u') return is_next('{') ? braced_hex() : hex(4);
    const bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z', digit = c >= '0' && c <= '9';
    if (letter || digit || c >= 0x80) refuse("this escape");
    return c;
  }

  uint32_t hex_digit() {
    const char32_t c = next("an unfinished escape");
    if (c >= '0' && c <= '9') return c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') return (c | 0x20) - 'a' + 10;
    refuse("this escape");
  }
  char32_t hex(int digits) {
    char32_t value = 0;
    for (; digits > 0; --digits) value = value * 16 + hex_digit();
    if (value >= 0xD800 && value <= 0xDFFF) refuse("half a character");
    return value;
  }
  char32_t braced_hex() {
    ++at_;
    char32_t value = 0;
    while (!take('}'))
      if ((value = value * 16 + hex_digit()) > kLast) refuse("this escape");
    if (value >= 0xD800 && value <= 0xDFFF) refuse("half a character");
    return value;
  }

  const std::string& where_;
  std::u32string text_;
  size_t at_ = 0;
};

}  // namespace

RegexNode parse_regex(std::string_view pattern, const std::string& where) {
  return RegexParser(pattern, where).parse();
}

}  // namespace sluice
