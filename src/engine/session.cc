#include "engine/session.h"

#include <algorithm>
#include <functional>

namespace sluice {

Session::Session(Engine& engine, bool draft) : engine_(engine), draft_(draft) {
  check(!draft || engine.has_mtp(), "Session: drafting needs an MTP module");
}

Session::~Session() {
  for (const int32_t page : pages_) engine_.cache().release(page);
}

void Session::adopt(std::span<const int32_t> ids, std::span<const int32_t> pages) {
  check(ids_.empty() && pages_.empty() && ids.size() == pages.size() * kPageTokens,
        "Session::adopt: expected an empty session and the tokens of full pages");
  ids_.assign(ids.begin(), ids.end());
  pages_.assign(pages.begin(), pages.end());
  prompt_end_ = length();
  stop_drafting();
}

void Session::reserve_pages(int64_t tokens) {
  while (static_cast<int64_t>(pages_.size()) * kPageTokens < length() + tokens)
    pages_.push_back(engine_.cache().acquire());
}

void Session::share(size_t index, int32_t page) {
  engine_.cache().release(pages_[index]);
  pages_[index] = page;
}

/// Pages and hidden states for `tokens` more.
void Session::reserve(int64_t tokens) {
  if (tokens > room())
    fail("context: {} tokens do not fit beside the {} of {} in use", tokens, length(), engine_.context());
  const int64_t end = length() + tokens;
  reserve_pages(tokens);
  if (!draft_) {
    hidden_.clear();
    hidden_begin_ = length();
  }
  hidden_.resize(static_cast<size_t>((end - hidden_begin_) * engine_.config().hidden_size));
}

/// `ids` have been fed.
void Session::append(std::span<const int32_t> ids, RowKind kind) {
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  if (kind == RowKind::prompt) prompt_end_ = length();
}

int64_t Session::hidden_rows() const { return static_cast<int64_t>(hidden_.size()) / engine_.config().hidden_size; }

Tensor Session::hidden(int64_t begin, int64_t rows) {
  const int64_t D = engine_.config().hidden_size;
  return Tensor(hidden_.data() + (begin - hidden_begin_) * D, {rows, D});
}

Tensor Session::feed(std::span<const int32_t> ids, int64_t rows, RowKind kind) {
  const int64_t n = static_cast<int64_t>(ids.size()), begin = length(), V = engine_.config().vocab_size;
  check(rows >= 0 && rows <= n, "Session::feed: expected 0 <= rows <= tokens");
  try {
    reserve(n);
    for (int64_t i = 0; i < n; i += engine_.pass_rows()) {
      const int64_t count = std::min(engine_.pass_rows(), n - i);
      const PassRows part{ids.subspan(static_cast<size_t>(i), static_cast<size_t>(count)), begin + i, pages_, kind};
      engine_.forward(hidden(begin + i, count), {&part, 1},
                      draft_ ? 0 : std::clamp<int64_t>(n - std::max<int64_t>(rows, 1) - i, 0, count));
    }
    logits_.resize(static_cast<size_t>(rows * V));
    const Tensor logits(logits_.data(), {rows, V});
    if (rows > 0) engine_.logits(logits, hidden(begin + n - rows, rows));
    append(ids, kind);
    return logits;
  } catch (...) {
    truncate(begin);
    throw;
  }
}

namespace {

/// Appends by `feed`; the sequences are as before where it throws.
void feed_or_forget(std::span<const BatchItem> items, const std::function<void()>& feed) {
  try {
    feed();
  } catch (...) {
    for (const BatchItem& item : items) item.session->truncate(item.session->length());
    throw;
  }
}

}  // namespace

void feed_batch(Engine& engine, std::span<const BatchItem> items, std::vector<float>& logits) {
  feed_or_forget(items, [&] { Session::feed_all(engine, items, logits); });
}

void feed_batch(Engine& engine, std::span<const BatchItem> items, std::span<const Draw> draws, std::span<int32_t> ids) {
  feed_or_forget(items, [&] {
    std::vector<PassRows> parts;
    for (const BatchItem& item : items) {
      Session& s = *item.session;
      check(item.ids.size() == 1 && item.kind == RowKind::text && !s.draft_,
            "feed_batch: expected a token of text of sessions that do not draft");
      s.reserve(1);
      parts.push_back({item.ids, s.length(), s.pages_, item.kind});
    }
    engine.draw(ids, parts, draws);
    for (const BatchItem& item : items) {
      item.session->append(item.ids, item.kind);
      item.session->hidden_.clear();  // nobody has them
      item.session->hidden_begin_ = item.session->length();
    }
  });
}

/// Appends to no session before everything is computed.
void Session::feed_all(Engine& engine, std::span<const BatchItem> items, std::vector<float>& logits) {
  const int64_t D = engine.config().hidden_size, V = engine.config().vocab_size;
  std::vector<PassRows> parts;
  int64_t rows = 0, wanted = 0;
  for (const BatchItem& item : items) {
    Session& s = *item.session;
    s.reserve(static_cast<int64_t>(item.ids.size()));
    parts.push_back({item.ids, s.length(), s.pages_, item.kind});
    rows += static_cast<int64_t>(item.ids.size());
    wanted += item.rows;
  }
  std::vector<float> hidden(static_cast<size_t>(rows * D)), last;
  engine.forward(Tensor(hidden.data(), {rows, D}), parts);
  const float* from = hidden.data();
  for (const BatchItem& item : items) {
    Session& s = *item.session;
    const int64_t n = static_cast<int64_t>(item.ids.size());
    std::copy_n(from, n * D, s.hidden(s.length(), n).f32());
    from += n * D;
    last.insert(last.end(), from - item.rows * D, from);
  }
  logits.resize(static_cast<size_t>(wanted * V));
  if (wanted > 0) engine.logits(Tensor(logits.data(), {wanted, V}), Tensor(last.data(), {wanted, D}));
  for (const BatchItem& item : items) item.session->append(item.ids, item.kind);
}

void Session::truncate(int64_t length) {
  check(length >= 0 && length <= this->length(), "Session::truncate: expected a length up to the present one");
  ids_.resize(static_cast<size_t>(length));
  const size_t pages = static_cast<size_t>((length + kPageTokens - 1) / kPageTokens);
  for (; pages_.size() > pages; pages_.pop_back()) engine_.cache().release(pages_.back());
  if (length < draft_begin_) draft_ = false;
  prompt_end_ = std::min(prompt_end_, length);
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

/// The MTP module over the positions from `begin` on, which `next_ids` follow.
void Session::run_mtp(const Tensor& z_TD, std::span<const int32_t> next_ids, int64_t begin, RowKind kind) {
  const int64_t n = static_cast<int64_t>(next_ids.size());
  for (int64_t i = 0; i < n; i += engine_.pass_rows()) {
    const int64_t count = std::min(engine_.pass_rows(), n - i);
    const PassRows part{next_ids.subspan(static_cast<size_t>(i), static_cast<size_t>(count)), begin + i - draft_begin_,
                        std::span(pages_).subspan(static_cast<size_t>(draft_begin_ / kPageTokens)), kind};
    engine_.forward_mtp(z_TD.slice_rows(i, count), hidden(begin + i, count), {&part, 1});
  }
}

Tensor Session::draft(int32_t next, int64_t rows) {
  check(draft_, "Session::draft: not a drafting session");
  const int64_t n = hidden_rows(), begin = hidden_begin_, D = engine_.config().hidden_size, V = engine_.draft_vocab();
  check(rows >= 1 && rows <= n, "Session::draft: expected 1 <= rows <= positions not run yet");
  std::vector<int32_t> next_ids(ids_.begin() + begin + 1, ids_.end());
  next_ids.push_back(next);
  std::vector<float> z(static_cast<size_t>(n * D));
  const Tensor z_TD(z.data(), {n, D});
  const int64_t prompt = std::clamp<int64_t>(prompt_end_ - begin, 0, n);
  const std::span<const int32_t> next_span(next_ids);
  run_mtp(z_TD, next_span.first(static_cast<size_t>(prompt)), begin, RowKind::prompt);
  run_mtp(z_TD.slice_rows(prompt, n - prompt), next_span.subspan(static_cast<size_t>(prompt)), begin + prompt,
          RowKind::text);
  draft_logits_.resize(static_cast<size_t>(rows * V));
  const Tensor logits(draft_logits_.data(), {rows, V});
  engine_.logits(logits, z_TD.slice_rows(n - rows, rows));
  hidden_.clear();
  hidden_begin_ = length();
  return logits;
}

void Session::start_drafting() {
  check(engine_.has_mtp() && length() % kPageTokens == 0,
        "Session::start_drafting: expected an MTP module and full pages");
  draft_ = true;
  draft_begin_ = hidden_begin_ = length();
  hidden_.clear();
}

void Session::stop_drafting() {
  draft_ = false;
  hidden_begin_ = length();
  std::vector<float>().swap(hidden_);
}

}  // namespace sluice
