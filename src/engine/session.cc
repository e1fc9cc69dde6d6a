#include "engine/session.h"

#include <algorithm>

namespace sluice {

Session::Session(Engine& engine, bool draft) : engine_(engine), draft_(draft) {
  check(!draft || engine.has_mtp(), "Session: drafting needs an MTP module");
}

Session::~Session() {
  for (const int32_t page : pages_) engine_.cache().release(page);
}

void Session::grow_pages(int64_t tokens) {
  while (static_cast<int64_t>(pages_.size()) * kPageTokens < tokens) pages_.push_back(engine_.cache().acquire());
}

int64_t Session::hidden_rows() const { return static_cast<int64_t>(hidden_.size()) / engine_.config().hidden_size; }

Tensor Session::hidden(int64_t begin, int64_t rows) {
  const int64_t D = engine_.config().hidden_size;
  return Tensor(hidden_.data() + (begin - hidden_begin_) * D, {rows, D});
}

Tensor Session::feed(std::span<const int32_t> ids, int64_t rows) {
  const int64_t n = static_cast<int64_t>(ids.size()), begin = length(), D = engine_.config().hidden_size;
  check(rows >= 0 && rows <= n, "Session::feed: expected 0 <= rows <= tokens");
  if (n > room()) fail("context: {} tokens do not fit beside the {} of {} in use", n, begin, engine_.context());
  grow_pages(begin + n);
  if (!draft_) {
    hidden_.clear();
    hidden_begin_ = begin;
  }
  hidden_.resize(static_cast<size_t>((begin + n - hidden_begin_) * D));
  try {
    for (int64_t i = 0; i < n; i += Engine::kPassRows) {
      const int64_t count = std::min(Engine::kPassRows, n - i);
      engine_.forward(hidden(begin + i, count), ids.subspan(static_cast<size_t>(i), static_cast<size_t>(count)),
                      begin + i, pages());
    }
  } catch (...) {
    hidden_.resize(static_cast<size_t>((begin - hidden_begin_) * D));
    throw;
  }
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  logits_.resize(static_cast<size_t>(rows * engine_.config().vocab_size));
  const Tensor logits(logits_.data(), {rows, engine_.config().vocab_size});
  if (rows > 0) engine_.logits(logits, hidden(length() - rows, rows));
  return logits;
}

void Session::truncate(int64_t length) {
  check(length >= 0 && length <= this->length(), "Session::truncate: expected a length up to the present one");
  ids_.resize(static_cast<size_t>(length));
  const size_t pages = static_cast<size_t>((length + kPageTokens - 1) / kPageTokens);
  for (; pages_.size() > pages; pages_.pop_back()) engine_.cache().release(pages_.back());
  hidden_begin_ = std::min(hidden_begin_, length);
  hidden_.resize(
      std::min(hidden_.size(), static_cast<size_t>((length - hidden_begin_) * engine_.config().hidden_size)));
}

int64_t Session::rewind(std::span<const int32_t> ids) {
  check(!ids.empty(), "Session::rewind: expected tokens");
  const auto common = std::mismatch(ids.begin(), ids.end(), ids_.begin(), ids_.end()).first - ids.begin();
  int64_t keep = std::min<int64_t>(common, static_cast<int64_t>(ids.size()) - 1);
  // The MTP entry of position i holds token i + 1: it stays valid where that token is common too.
  if (draft_ && keep == common && keep > 0 && keep <= hidden_begin_ && keep < length()) --keep;
  truncate(keep);
  return keep;
}

Tensor Session::draft(int32_t next, int64_t rows) {
  check(draft_, "Session::draft: not a drafting session");
  const int64_t n = hidden_rows(), begin = hidden_begin_, D = engine_.config().hidden_size,
                V = engine_.config().vocab_size;
  check(rows >= 1 && rows <= n, "Session::draft: expected 1 <= rows <= positions not run yet");
  std::vector<int32_t> next_ids(ids_.begin() + begin + 1, ids_.end());
  next_ids.push_back(next);
  std::vector<float> z(static_cast<size_t>(n * D));
  const Tensor z_TD(z.data(), {n, D});
  for (int64_t i = 0; i < n; i += Engine::kPassRows) {
    const int64_t count = std::min(Engine::kPassRows, n - i);
    engine_.forward_mtp(z_TD.slice_rows(i, count), hidden(begin + i, count),
                        std::span(next_ids).subspan(static_cast<size_t>(i), static_cast<size_t>(count)), begin + i,
                        pages());
  }
  draft_logits_.resize(static_cast<size_t>(rows * V));
  const Tensor logits(draft_logits_.data(), {rows, V});
  engine_.logits(logits, z_TD.slice_rows(n - rows, rows));
  hidden_.clear();
  hidden_begin_ = length();
  return logits;
}

void Session::stop_drafting() { draft_ = false; }

}  // namespace sluice
