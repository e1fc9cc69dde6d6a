#include "cli/text_reader.h"

#include <algorithm>

namespace sluice {
namespace {

constexpr int64_t kRows = 256;  // logits in memory at once

}  // namespace

TextReader::TextReader(Engine& engine, std::span<const int32_t> ids) : session_(engine, false), ids_(ids) {}

std::span<const int32_t> TextReader::tokens(int64_t begin, int64_t end) const {
  return ids_.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
}

std::optional<TextReader::Rows> TextReader::next() {
  const int64_t n = static_cast<int64_t>(ids_.size()), context = session_.engine().context();
  if (done_ == n) return std::nullopt;
  if (session_.room() == 0) {
    window_ += std::max<int64_t>(1, context / 2);
    session_.truncate(0);
    if (done_ > window_) session_.feed(tokens(window_, done_), 0);
  }
  const int64_t begin = done_;
  done_ = std::min({n, window_ + context, begin + kRows});
  return Rows{begin, session_.feed(tokens(begin, done_), done_ - begin)};
}

}  // namespace sluice
