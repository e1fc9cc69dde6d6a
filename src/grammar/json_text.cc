#include "grammar/json_text.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "tokenizer/byte_level.h"

namespace sluice {
namespace {

constexpr int kMaxIndent = 32;
constexpr int kMaxIntegerDigits = 18, kMaxFractionDigits = 16, kMaxExponentDigits = 2;
constexpr char32_t kLastCharacter = 0x10FFFF;

bool is_escaped(char32_t c) { return c < 0x20 || c == '"' || c == '\\'; }

std::u32string code_points(std::string_view text) {
  std::u32string out;
  for (size_t i = 0; i < text.size(); i += utf8_length(text.substr(i))) out += utf8_decode(text.substr(i));
  return out;
}

}  // namespace

std::string utf8_encode(char32_t c) {
  const auto low = [&](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xC0 | c >> 6), low(0)};
  if (c < 0x10000) return {static_cast<char>(0xE0 | c >> 12), low(6), low(0)};
  return {static_cast<char>(0xF0 | c >> 18), low(12), low(6), low(0)};
}

JsonText::JsonText(AutomatonBuilder& net) : net_(net) {
  add_space_rule();
  add_character_rules();
  add_escape_rule();
  net_.make_leaf(space_.start);
  add_value_rules();
}

void JsonText::add_space_rule() {
  space_ = net_.add_rule();
  net_.byte(space_.start, ' ', space_.end);
  uint32_t at = net_.add_state();
  net_.byte(space_.start, '\n', at);
  net_.empty(at, space_.end);
  for (int i = 0; i < kMaxIndent; ++i) {
    const uint32_t next = i + 1 == kMaxIndent ? space_.end : net_.add_state();
    net_.byte(at, ' ', next);
    if (next != space_.end) net_.empty(next, space_.end);
    at = next;
  }
}

void JsonText::add_character_rules() {
  wide_ = net_.add_rule();
  for (const auto& [lo, hi] : {std::pair<char32_t, char32_t>{0x80, 0x7FF}, {0x800, 0xFFFF}, {0x10000, kLastCharacter}})
    if (lo == 0x800) {
      utf8_range(wide_.start, utf8_encode(lo), utf8_encode(0xD7FF), wide_.end);
      utf8_range(wide_.start, utf8_encode(0xE000), utf8_encode(hi), wide_.end);
    } else {
      utf8_range(wide_.start, utf8_encode(lo), utf8_encode(hi), wide_.end);
    }
}

/// Escapes as they may be written: `\n`, `\u000a`, and surrogates only in pairs.
void JsonText::add_escape_rule() {
  escape_ = net_.add_rule();
  const uint32_t slash = net_.add_state(), u = net_.add_state(), d = net_.add_state(), end = escape_.end;
  net_.byte(escape_.start, '\\', slash);
  for (const char c : std::string_view("\"\\/bfnrt")) net_.byte(slash, c, end);
  net_.byte(slash, 'u', u);
  const uint32_t third = net_.add_state(), second = net_.add_state(), last = net_.add_state();
  hex_digit(u, 0x0, 0xC, third);
  hex_digit(u, 0xD, 0xD, d);
  hex_digit(u, 0xE, 0xF, third);
  hex_digit(third, 0, 15, second);
  hex_digit(second, 0, 15, last);
  hex_digit(last, 0, 15, end);
  hex_digit(d, 0, 7, second);
  const uint32_t high = net_.add_state();
  hex_digit(d, 8, 11, high);
  const uint32_t low = net_.add_state(), low_d = net_.add_state();
  net_.literal(hex_digits(high, 2), "\\u", low);
  hex_digit(low, 0xD, 0xD, low_d);
  const uint32_t low_third = net_.add_state();
  hex_digit(low_d, 0xC, 0xF, low_third);
  net_.empty(hex_digits(low_third, 2), end);
}

void JsonText::hex_digit(uint32_t from, uint32_t lo, uint32_t hi, uint32_t to) {
  for (const char letter : {'a', 'A'}) {
    const auto digit = [&](uint32_t d) { return static_cast<uint8_t>(letter + d - 10); };
    if (hi >= 10) net_.byte(from, digit(std::max(lo, 10u)), digit(hi), to);
  }
  if (lo < 10) net_.byte(from, static_cast<uint8_t>('0' + lo), static_cast<uint8_t>('0' + std::min(hi, 9u)), to);
}

uint32_t JsonText::hex_digits(uint32_t from, int count) {
  for (; count > 0; --count) {
    const uint32_t next = net_.add_state();
    hex_digit(from, 0, 15, next);
    from = next;
  }
  return from;
}

void JsonText::add_value_rules() {
  string_ = net_.add_rule();
  const uint32_t inside = net_.add_state();
  net_.byte(string_.start, '"', inside);
  any_character(inside, inside);
  net_.byte(inside, '"', string_.end);

  value_ = net_.add_rule();
  object_ = net_.add_rule();
  for (const char* word : {"null", "true", "false"}) net_.literal(value_.start, word, value_.end);
  number(value_.start, false, value_.end);
  net_.call(value_.start, string_, value_.end);
  net_.call(value_.start, object_, value_.end);
  const uint32_t item = list(value_.start, "[]", value_.end);
  net_.call(item, value_, item + 1);
  const uint32_t member = list(object_.start, "{}", object_.end);
  const uint32_t colon = net_.add_state(), after_colon = net_.add_state();
  net_.call(member, string_, colon);
  net_.byte(colon, ':', after_colon);
  const uint32_t value = net_.add_state();
  one_space(after_colon, value);
  net_.call(value, value_, member + 1);
}

/// Any number of elements between `brackets`. Returns the state in which one begins; it has to lead to the next state.
uint32_t JsonText::list(uint32_t from, std::string_view brackets, uint32_t to) {
  const uint32_t element = net_.add_state(), after = net_.add_state();
  const uint32_t open = net_.add_state(), first = net_.add_state(), comma = net_.add_state(), close = net_.add_state();
  net_.byte(from, brackets[0], open);
  space(open, first);
  net_.empty(first, element);
  net_.empty(first, close);
  net_.byte(after, ',', comma);
  space(comma, element);
  space(after, close);
  net_.byte(close, brackets[1], to);
  return element;
}

void JsonText::space(uint32_t from, uint32_t to) {
  net_.empty(from, to);
  net_.call(from, space_, to);
}

void JsonText::one_space(uint32_t from, uint32_t to) {
  net_.empty(from, to);
  net_.byte(from, ' ', to);
}

void JsonText::key(uint32_t from, const std::string& quoted, uint32_t to) {
  const uint32_t end = net_.add_state();
  net_.literal(from, quoted + ':', end);
  one_space(end, to);
}

void JsonText::any_character(uint32_t from, uint32_t to) {
  plain_character(from, to);
  net_.call(from, escape_, to);
}

void JsonText::plain_character(uint32_t from, uint32_t to) {
  net_.byte(from, 0x20, 0x21, to);
  net_.byte(from, 0x23, 0x5B, to);
  net_.byte(from, 0x5D, 0x7F, to);
  wide_character(from, to);
}

/// `lo` and `hi` have as many bytes as each other.
void JsonText::utf8_range(uint32_t from, const std::string& lo, const std::string& hi, uint32_t to) {
  const auto first = [](const std::string& text) { return static_cast<uint8_t>(text[0]); };
  if (lo.size() == 1) return net_.byte(from, first(lo), first(hi), to);
  const std::string lowest(lo.size() - 1, '\x80'), highest(lo.size() - 1, '\xBF');
  const auto rest = [&](uint8_t begin, uint8_t end, const std::string& rest_lo, const std::string& rest_hi) {
    const uint32_t next = net_.add_state();
    net_.byte(from, begin, end, next);
    utf8_range(next, rest_lo, rest_hi, to);
  };
  uint8_t begin = first(lo), end = first(hi);
  const std::string lo_rest = lo.substr(1), hi_rest = hi.substr(1);
  if (begin == end) return rest(begin, end, lo_rest, hi_rest);
  if (lo_rest != lowest) rest(begin++, first(lo), lo_rest, highest);
  const bool cut_end = hi_rest != highest;
  if (cut_end) --end;
  if (begin <= end) rest(begin, end, lowest, highest);
  if (cut_end) rest(first(hi), first(hi), lowest, hi_rest);
}

void JsonText::characters(uint32_t from, char32_t lo, char32_t hi, uint32_t to) {
  if (lo <= 0x80 && hi >= kLastCharacter) {
    wide_character(from, to);
    hi = 0x7F;
  }
  // Cut where the form changes: escapes, lengths of UTF-8, surrogates.
  static constexpr char32_t kCuts[] = {0x20, '"', '"' + 1, '\\', '\\' + 1, 0x80, 0x800, 0xD800, 0xE000, 0x10000};
  for (const char32_t cut : kCuts) {
    if (lo >= cut || lo > hi) continue;
    const char32_t end = std::min<char32_t>(hi, cut - 1);
    if (is_escaped(lo)) {
      escaped(from, lo, end, end < hi, to);
    } else if (lo < 0xD800 || lo > 0xDFFF) {
      utf8_range(from, utf8_encode(lo), utf8_encode(end), to);
    }
    lo = cut;
  }
  if (lo <= hi) utf8_range(from, utf8_encode(lo), utf8_encode(hi), to);
}

/// `common_only`: only those that have a short escape. Among many other characters nobody misses the rest, which would
/// take most of the states.
void JsonText::escaped(uint32_t from, char32_t lo, char32_t hi, bool common_only, uint32_t to) {
  static const std::map<char32_t, char> kShort = {{'\b', 'b'}, {'\f', 'f'}, {'\n', 'n'}, {'\r', 'r'},
                                                  {'\t', 't'}, {'"', '"'},  {'\\', '\\'}};
  std::vector<std::string> texts;
  for (char32_t c = lo; c <= hi; ++c) {
    const auto it = kShort.find(c);
    if (it != kShort.end()) {
      texts.push_back(std::string("\\") + it->second);
    } else if (!common_only) {
      texts.push_back(fmt::format("\\u{:04x}", static_cast<uint32_t>(c)));
    }
  }
  net_.literals(from, texts, to);
}

void JsonText::string(uint32_t from, uint32_t min, uint32_t max, uint32_t to) {
  if (min == 0 && max == kNoLimit) return net_.call(from, string_, to);
  uint32_t at = net_.add_state();
  net_.byte(from, '"', at);
  const uint32_t chain = max == kNoLimit ? min : max;
  for (uint32_t length = 0;; ++length) {
    if (length >= min) net_.byte(at, '"', to);
    if (length == chain) break;
    const uint32_t next = net_.add_state();
    any_character(at, next);
    at = next;
  }
  if (max == kNoLimit) any_character(at, at);
}

void JsonText::other_key(uint32_t from, const std::vector<std::string>& names, uint32_t to) {
  if (names.empty()) return net_.call(from, string_, to);
  struct Node {
    uint32_t state;
    bool is_name = false;
    std::map<char32_t, size_t> children;
  };
  std::vector<Node> nodes = {{net_.add_state(), false, {}}};
  for (const std::string& name : names) {
    const std::u32string text = code_points(name);
    if (std::any_of(text.begin(), text.end(), is_escaped)) continue;  // cannot be written without escapes
    size_t at = 0;
    for (const char32_t c : text) {
      const auto [child, is_new] = nodes[at].children.try_emplace(c, nodes.size());
      at = child->second;
      if (is_new) nodes.push_back({net_.add_state(), false, {}});
    }
    nodes[at].is_name = true;
  }
  const uint32_t rest = net_.add_state();  // no name begins like this
  net_.byte(from, '"', nodes[0].state);
  plain_character(rest, rest);
  net_.byte(rest, '"', to);
  for (const Node& node : nodes) {
    if (!node.is_name) net_.byte(node.state, '"', to);
    const auto others = [&](char32_t lo, char32_t hi) {  // of which escapes are left out
      for (const auto& [begin, end] : {std::pair<char32_t, char32_t>{0x20, 0x21}, {0x23, 0x5B}, {0x5D, kLastCharacter}})
        if (std::max(lo, begin) <= std::min(hi, end))
          characters(node.state, std::max(lo, begin), std::min(hi, end), rest);
    };
    char32_t next = 0;
    for (const auto& [c, child] : node.children) {
      characters(node.state, c, c, nodes[child].state);
      if (c > next) others(next, c - 1);
      next = c + 1;
    }
    others(next, kLastCharacter);
  }
}

void JsonText::number(uint32_t from, bool is_integer, uint32_t to) {
  const auto digit = [&](uint32_t begin, char lowest, uint32_t end) {
    net_.byte(begin, static_cast<uint8_t>(lowest), '9', end);
  };
  /// `count` digits at most behind `at`; each place where they may end leads to `end`.
  const auto more_digits = [&](uint32_t at, int count, uint32_t end) {
    net_.empty(at, end);
    for (; count > 0; --count) {
      const uint32_t next = net_.add_state();
      digit(at, '0', next);
      net_.empty(next, end);
      at = next;
    }
  };
  const uint32_t whole = net_.add_state(), first = net_.add_state();
  const uint32_t end_whole = is_integer ? to : net_.add_state();
  net_.empty(from, whole);
  net_.byte(from, '-', whole);
  net_.byte(whole, '0', end_whole);
  digit(whole, '1', first);
  more_digits(first, kMaxIntegerDigits - 1, end_whole);
  if (is_integer) return;
  const uint32_t point = net_.add_state(), fraction = net_.add_state(), end_fraction = net_.add_state();
  net_.byte(end_whole, '.', point);
  digit(point, '0', fraction);
  more_digits(fraction, kMaxFractionDigits - 1, end_fraction);
  net_.empty(end_whole, end_fraction);
  net_.empty(end_fraction, to);
  const uint32_t e = net_.add_state(), sign = net_.add_state(), exponent = net_.add_state();
  for (const char c : {'e', 'E'}) net_.byte(end_fraction, c, e);
  for (const char c : {'+', '-'}) net_.byte(e, c, sign);
  net_.empty(e, sign);
  digit(sign, '0', exponent);
  more_digits(exponent, kMaxExponentDigits - 1, to);
}

}  // namespace sluice
