#include "chat/thinking.h"

#include <algorithm>
#include <utility>

namespace sluice {
namespace {

constexpr std::string_view kBegin = "<think>", kEnd = "</think>";

/// The length of the longest end of `text` that a longer text could make the tag kEnd.
size_t unfinished_end(std::string_view text) {
  size_t n = std::min(kEnd.size() - 1, text.size());
  while (n > 0 && !text.ends_with(kEnd.substr(0, n))) --n;
  return n;
}

}  // namespace

ThinkingSplitter::Parts ThinkingSplitter::push(std::string_view piece) {
  Parts parts;
  held_ += piece;
  if (state_ == State::start) {
    const std::string_view text =
        std::string_view(held_).substr(std::min(held_.find_first_not_of(" \t\r\n"), held_.size()));
    if (kBegin.starts_with(text) && text != kBegin) return parts;
    state_ = text.starts_with(kBegin) ? State::thinking : State::answer;
    if (state_ == State::thinking) held_.erase(0, held_.size() - text.size() + kBegin.size());
  }
  if (state_ == State::thinking) {
    const size_t end = held_.find(kEnd);
    const size_t certain = end != std::string::npos ? end : held_.size() - unfinished_end(held_);
    parts.thinking = held_.substr(0, certain);
    held_.erase(0, certain);
    if (end == std::string::npos) return parts;
    held_.erase(0, kEnd.size());
    state_ = State::answer;
  }
  parts.answer = std::exchange(held_, {});
  return parts;
}

ThinkingSplitter::Parts ThinkingSplitter::finish() {
  std::string rest = std::exchange(held_, {});
  return is_thinking() ? Parts{std::move(rest), {}} : Parts{{}, std::move(rest)};
}

}  // namespace sluice
