#include "chat/text_stream.h"

#include <algorithm>

namespace sluice {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Prefix {
  size_t length;  // bytes of a character's valid beginning, or of the ill-formed piece
  enum Kind : uint8_t { complete, incomplete, ill_formed } kind;
};

/// What `bytes` (not empty) begins with. Second bytes are limited as in Unicode's table 3-7: no overlong forms, no
/// surrogates, nothing above U+10FFFF.
Prefix first_character(std::string_view bytes) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {1, Prefix::complete};
  if (lead < 0xC2 || lead > 0xF4) return {1, Prefix::ill_formed};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  const uint8_t lowest = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t highest = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {i, Prefix::incomplete};
    const bool valid = i == 1 ? byte(i) >= lowest && byte(i) <= highest : (byte(i) & 0xC0) == 0x80;
    if (!valid) return {i, Prefix::ill_formed};
  }
  return {length, Prefix::complete};
}

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  std::string out;
  std::string_view left = pending_;
  while (!left.empty()) {
    const Prefix p = first_character(left);
    if (p.kind == Prefix::incomplete) break;
    out += p.kind == Prefix::complete ? left.substr(0, p.length) : kReplacement;
    left.remove_prefix(p.length);
  }
  pending_.erase(0, pending_.size() - left.size());
  return out;
}

std::string Utf8Stream::finish() {
  const bool incomplete = !pending_.empty();
  pending_.clear();
  return incomplete ? std::string(kReplacement) : std::string();
}

StopFilter::StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) { std::erase(stops_, std::string()); }

std::string StopFilter::push(std::string_view piece) {
  if (stopped_) return {};
  held_ += piece;
  return take(false);
}

std::string StopFilter::finish() { return stopped_ ? std::string() : take(true); }

/// Moves the certain part of held_ out: up to the first stop string, else all but the longest end that begins one.
std::string StopFilter::take(bool end) {
  size_t certain = held_.size();
  for (const std::string& stop : stops_)
    if (const size_t at = held_.find(stop); at != std::string::npos) {
      certain = std::min(certain, at);
      stopped_ = true;
    }
  if (!stopped_ && !end)
    for (const std::string& stop : stops_)
      for (size_t n = std::min(stop.size() - 1, held_.size()); n > 0; --n)
        if (held_.ends_with(std::string_view(stop).substr(0, n))) {
          certain = std::min(certain, held_.size() - n);
          break;
        }
  std::string out = held_.substr(0, certain);
  held_.erase(0, stopped_ ? held_.size() : certain);
  return out;
}

TokenText::TokenText(const Tokenizer& tokenizer, std::span<const std::string_view> shown) : tokenizer_(tokenizer) {
  for (const std::string_view text : shown)
    if (const std::optional<int32_t> id = tokenizer.id_of(text)) shown_.push_back(*id);
}

std::string TokenText::push(int32_t id) {
  if (tokenizer_.is_special(id) && std::find(shown_.begin(), shown_.end(), id) == shown_.end()) return {};
  return utf8_.push(tokenizer_.token_bytes(id));
}

}  // namespace sluice
