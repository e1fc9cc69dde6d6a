#include "grammar/number_range.h"

#include <algorithm>
#include <cstdlib>
#include <map>

#include "base/error.h"

namespace sluice {
namespace {

constexpr size_t kMaxWhole = 18, kMaxFraction = 16;
constexpr int64_t kMaxExponent = 1000;

/// Digits of numbers >= 0 that are compared with the bounds as they are written: as long as they are equal to the
/// digits of a bound, it is "tight"; from then on it does not matter any more.
class MagnitudeWriter {
 public:
  MagnitudeWriter(AutomatonBuilder& net, const NumberRange& range, uint32_t to) : net_(net), range_(range), to_(to) {}

  void write(uint32_t from) {
    const size_t shortest = range_.min ? std::max<size_t>(range_.min->value.whole.size(), 1) : 1;
    const size_t longest = range_.max ? std::max<size_t>(range_.max->value.whole.size(), 1) : kMaxWhole;
    const size_t first_free = shortest + (range_.min ? 1 : 0), last_free = longest - (range_.max ? 1 : 0);
    if (range_.min) whole_digits(from, shortest, shortest, {true, range_.max && longest == shortest}, shortest > 1);
    if (range_.max && (longest > shortest || !range_.min))
      whole_digits(from, longest, longest, {false, true}, longest > 1);
    free_lengths(from, first_free, last_free);
  }

 private:
  struct Tight {
    bool min = false, max = false;
    auto operator<=>(const Tight&) const = default;
  };
  struct Place {
    size_t left;  // digits of the whole part, or kFraction
    size_t done;  // digits of the fraction
    Tight tight;
    auto operator<=>(const Place&) const = default;
  };
  static constexpr size_t kFraction = SIZE_MAX;

  /// Digit `i` of a whole part of `length`, or of a fraction.
  static int whole_digit(const Decimal& d, size_t length, size_t left) {
    const size_t i = length - left + d.whole.size();  // from the first digit of d with `length` of them
    return i < length ? 0 : d.whole[i - length] - '0';
  }
  static int fraction_digit(const Decimal& d, size_t i) { return i < d.fraction.size() ? d.fraction[i] - '0' : 0; }

  /// Edges for the digits of one place; `next` makes the state behind a digit from what is still tight then.
  template <class Next>
  void digits(uint32_t from, int lowest, Tight tight, int min, int max, Next&& next) {
    const int lo = std::max(lowest, tight.min ? min : 0), hi = tight.max ? max : 9;
    for (int d = lo; d <= hi;) {
      const Tight after = {tight.min && d == min, tight.max && d == max};
      int end = d;  // the last digit with the same state behind it
      while (!after.min && !after.max && end < hi && !(tight.max && end + 1 == max)) ++end;
      net_.byte(from, static_cast<uint8_t>('0' + d), static_cast<uint8_t>('0' + end), next(after));
      d = end + 1;
    }
  }

  /// Whole parts of `shortest` to `longest` digits, for which no bound matters.
  void free_lengths(uint32_t from, size_t shortest, size_t longest) {
    if (shortest > longest) return;
    if (shortest == 1) {
      const uint32_t zero = net_.add_state();
      net_.byte(from, '0', zero);
      end_whole(zero, {});
    }
    for (size_t length = 1; length <= longest; ++length) {
      const uint32_t next = net_.add_state();
      net_.byte(from, length == 1 ? '1' : '0', '9', next);
      if (length >= shortest) end_whole(next, {});
      from = next;
    }
  }

  void whole_digits(uint32_t from, size_t length, size_t left, Tight tight, int lowest) {
    const int min = tight.min ? whole_digit(range_.min->value, length, left) : 0;
    const int max = tight.max ? whole_digit(range_.max->value, length, left) : 9;
    digits(from, lowest, tight, min, max, [&](Tight after) { return whole_state(length, left - 1, after); });
  }

  /// The state with `left` digits of the whole part to come. `length` matters only while a bound is tight, and bounds
  /// are tight at one length each.
  uint32_t whole_state(size_t length, size_t left, Tight tight) {
    const auto [it, is_new] = states_.try_emplace({left, tight.min || tight.max ? length : 0, tight}, 0);
    if (!is_new) return it->second;
    const uint32_t state = it->second = net_.add_state();
    if (left > 0) {
      whole_digits(state, length, left, tight, 0);
    } else {
      end_whole(state, tight);
    }
    return state;
  }

  void end_whole(uint32_t state, Tight tight) {
    if (can_end(tight, 0)) net_.empty(state, to_);
    if (range_.is_integer) return;
    const uint32_t point = net_.add_state();
    net_.byte(state, '.', point);
    fraction_digits(point, 0, tight);
  }

  /// Whether the number may end after `done` digits of the fraction: as if zeros followed.
  bool can_end(Tight tight, size_t done) const {
    const auto ends = [&](const NumberBound& bound) { return done >= bound.value.fraction.size(); };
    if (tight.min && (!ends(*range_.min) || range_.min->exclusive)) return false;
    return !tight.max || !ends(*range_.max) || !range_.max->exclusive;
  }

  void fraction_digits(uint32_t from, size_t done, Tight tight) {
    const int min = tight.min ? fraction_digit(range_.min->value, done) : 0;
    const int max = tight.max ? fraction_digit(range_.max->value, done) : 9;
    digits(from, 0, tight, min, max, [&](Tight after) { return fraction_state(done + 1, after); });
  }

  uint32_t fraction_state(size_t done, Tight tight) {
    const auto [it, is_new] = states_.try_emplace({kFraction, done, tight}, 0);
    if (!is_new) return it->second;
    const uint32_t state = it->second = net_.add_state();
    if (can_end(tight, done)) net_.empty(state, to_);
    if (done < kMaxFraction) fraction_digits(state, done, tight);
    return state;
  }

  AutomatonBuilder& net_;
  const NumberRange& range_;
  const uint32_t to_;
  std::map<Place, uint32_t> states_;
};

Decimal negated(Decimal d) {
  d.negative = !d.is_zero() && !d.negative;
  return d;
}

std::optional<NumberBound> negated(const std::optional<NumberBound>& bound) {
  if (!bound) return {};
  return NumberBound{negated(bound->value), bound->exclusive};
}

/// The part of `range` from zero up; `above_zero`: without zero. Whether there is any.
bool nonnegative_part(NumberRange& range, bool above_zero) {
  if (!range.min || range.min->value.negative || (range.min->value.is_zero() && above_zero))
    range.min = NumberBound{{}, above_zero};
  return !range.max || compare(range.min->value, range.max->value) <= 0;
}

/// Adds 1 to digits.
void increment(std::string& digits) {
  size_t i = digits.size();
  while (i > 0 && digits[i - 1] == '9') digits[--i] = '0';
  if (i > 0) {
    ++digits[i - 1];
  } else {
    digits.insert(digits.begin(), '1');
  }
}

/// The least integer >= 0 that satisfies a lower bound >= 0.
void round_up(NumberBound& min) {
  if (!min.value.fraction.empty() || min.exclusive) increment(min.value.whole);
  min = {{false, min.value.whole, {}}, false};
}

}  // namespace

Decimal parse_decimal(std::string_view text, const std::string& where) {
  Decimal out;
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  std::string digits;
  int64_t exponent = 0, point = -1;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == 'e' || text[i] == 'E') {
      exponent = std::atoll(std::string(text.substr(i + 1)).c_str());
      break;
    }
    if (text[i] == '.') {
      point = static_cast<int64_t>(digits.size());
    } else {
      digits += text[i];
    }
  }
  if (std::abs(exponent) > kMaxExponent) fail("{}: expected a number without a large exponent, found {}", where, text);
  const int64_t whole = (point < 0 ? static_cast<int64_t>(digits.size()) : point) + exponent;
  if (whole < 0) digits.insert(0, static_cast<size_t>(-whole), '0');
  const size_t size = static_cast<size_t>(std::max<int64_t>(whole, 0));
  if (digits.size() < size) digits.append(size - digits.size(), '0');
  out.whole = digits.substr(0, size);
  out.fraction = digits.substr(size);
  out.whole.erase(0, std::min(out.whole.find_first_not_of('0'), out.whole.size()));
  out.fraction.erase(out.fraction.find_last_not_of('0') + 1);
  out.negative = negative && !out.is_zero();
  if (out.whole.size() > kMaxWhole || out.fraction.size() > kMaxFraction)
    fail("{}: expected at most {} digits before the point and {} behind it, found {}", where, kMaxWhole, kMaxFraction,
         text);
  return out;
}

int compare(const Decimal& a, const Decimal& b) {
  if (a.negative != b.negative) return a.negative ? -1 : 1;
  int order = a.whole.size() < b.whole.size() ? -1 : a.whole.size() > b.whole.size() ? 1 : a.whole.compare(b.whole);
  if (order == 0) order = a.fraction.compare(b.fraction);
  return a.negative ? -order : order;
}

void add_numbers(AutomatonBuilder& net, uint32_t from, const NumberRange& range, uint32_t to) {
  NumberRange negative = {negated(range.max), negated(range.min), range.is_integer}, positive = range;
  const uint32_t minus = net.add_state();
  net.byte(from, '-', minus);
  for (auto* part : {&positive, &negative}) {
    if (!nonnegative_part(*part, part == &negative)) continue;
    if (range.is_integer) {
      round_up(*part->min);
      if (part->max && compare(part->min->value, part->max->value) > 0) continue;
      if (part->min->value.whole.size() > kMaxWhole) continue;
    }
    MagnitudeWriter(net, *part, to).write(part == &positive ? from : minus);
  }
}

}  // namespace sluice
