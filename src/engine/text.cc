#include "engine/text.h"

#include <algorithm>
#include <utility>

namespace sluice {
namespace {

int64_t chosen_limit(const GenerateOptions& options, const HfConfig& config) {
  return options.vocab_limit ? std::min(options.vocab_limit, config.vocab_size) : config.vocab_size;
}

/// The `top` largest logits of the first `limit`, largest first; of equal ones the lower id first.
std::vector<TokenLogprob> largest(const float* logits, int64_t limit, int64_t top) {
  std::vector<TokenLogprob> best;
  const auto before = [](const TokenLogprob& a, const TokenLogprob& b) { return a.logprob > b.logprob; };
  const size_t most = static_cast<size_t>(std::min(top, limit));
  for (int64_t id = 0; id < limit && most > 0; ++id) {
    const TokenLogprob x{static_cast<int32_t>(id), logits[id]};
    if (best.size() == most) {
      if (!before(x, best.back())) continue;
      best.pop_back();
    }
    best.insert(std::upper_bound(best.begin(), best.end(), x, before), x);
  }
  return best;
}

}  // namespace

Text::Text(uint64_t id, Request request, Engine& engine, Clock::time_point submitted)
    : id_(id),
      request_(std::move(request)),
      engine_(engine),
      limit_(chosen_limit(request_.options, engine.config())),
      session_(engine, false),
      sampler_(engine.stream(), request_.options.rule, request_.options.seed, limit_, request_.options.logit_bias),
      ids_(request_.prompt),
      submitted_(submitted) {
  sampler_.see(ids_);
  result_.prompt_tokens = prompt_length();
}

std::span<const int32_t> Text::shareable() const {
  if (request_.prompt_logprobs && tokens() == 0) return {};
  return ids().first(std::min(request_.prompt.size(), ids_.size() - 1));
}

/// Which ids may come next; empty: all.
std::span<const uint64_t> Text::allowed() {
  TokenConstraint* constraint = request_.constraint.get();
  if (!constraint || mask_is_current_) return mask_;
  mask_.assign(static_cast<size_t>((limit_ + 63) / 64), 0);
  constraint->mask(mask_);
  if (limit_ % 64 != 0) mask_.back() &= (uint64_t{1} << limit_ % 64) - 1;
  const bool can_end = constraint->can_end();
  for (const int32_t id : options().stop_ids) {
    if (id < 0 || id >= limit_) continue;
    uint64_t& word = mask_[static_cast<size_t>(id / 64)];
    const uint64_t bit = uint64_t{1} << id % 64;
    word = can_end ? word | bit : word & ~bit;
  }
  mask_is_current_ = true;
  return mask_;
}

std::vector<int32_t> Text::draft() {
  const Tensor logits = session_.draft(ids_.back());
  try {
    return {sampler_.choose(logits, session_.length() + 1, allowed())};
  } catch (const std::exception&) {  // the constraint's: it ends the text when the next token is chosen
    return {};
  }
}

void Text::take(const Tensor& logits, int64_t begin, std::span<const int32_t> drafts) {
  newly_accepted_ = 0;
  try {
    choose_all(logits, begin, drafts);
  } catch (...) {
    end_by_exception();
  }
}

std::optional<Draw> Text::plain_draw() const {
  if (request_.constraint || request_.top_logprobs || request_.prompt_logprobs || session_.drafts())
    return std::nullopt;
  return sampler_.plain_draw(session_.length() + 1);
}

void Text::take_drawn(int32_t id, int64_t begin) {
  newly_accepted_ = 0;
  kept_ = begin + 1;
  append(id, {});
}

void Text::choose_all(const Tensor& logits, int64_t begin, std::span<const int32_t> drafts) {
  const auto row_of = [&](int64_t row) { return logits.slice_rows(row, 1); };
  int64_t row = 0;
  if (request_.prompt_logprobs)
    for (; row < logits.rows() && begin + row + 1 < prompt_length(); ++row) echo(row_of(row), begin + row + 1);
  for (size_t right = 0; row < logits.rows(); ++right, ++row) {
    kept_ = begin + row + 1;
    int32_t id = 0;
    const bool is_chosen = choose(id, row_of(row), *kept_);
    const bool is_drafted = is_chosen && right < drafts.size() && drafts[right] == id;
    newly_accepted_ += is_drafted;
    if (!is_chosen || !append(id, row_of(row)) || !is_drafted) return;
  }
}

/// The log probability of the prompt's token at `position`, unless it was given away before a preemption.
void Text::echo(const Tensor& logits, int64_t position) {
  if (position <= echoed_) return;
  echoed_ = position;
  prompt_logprobs_.push_back(logprobs(logits, ids_[static_cast<size_t>(position)], request_.top_logprobs.value_or(0)));
}

/// False when the text ends because nothing is allowed.
bool Text::choose(int32_t& id, const Tensor& logits, int64_t position) {
  const auto allowed = this->allowed();
  if (!allowed.empty() && std::all_of(allowed.begin(), allowed.end(), [](uint64_t word) { return word == 0; })) {
    end(Finish::stop_id);
    return false;
  }
  id = sampler_.choose(logits, position, allowed);
  return true;
}

/// As the loop of generate() gives tokens away. False when the text ends with it or before it.
bool Text::append(int32_t id, const Tensor& logits) {
  const auto& stop_ids = options().stop_ids;
  if (std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end()) {
    end(Finish::stop_id);
  } else if (tokens() >= options().max_tokens) {
    end(Finish::max_tokens);
  } else {
    ids_.push_back(id);
    sampler_.add(id);
    if (request_.constraint) request_.constraint->accept(id);
    mask_is_current_ = false;
    events_.push_back({id, {}});
    if (request_.top_logprobs) events_.back().logprobs = logprobs(logits, id, *request_.top_logprobs);
    if (tokens() >= options().max_tokens) {
      end(Finish::max_tokens);
    } else if (static_cast<int64_t>(ids_.size()) > engine_.context()) {
      end(Finish::context_full);
    }
  }
  return !has_ended_;
}

TokenLogprobs Text::logprobs(const Tensor& logits, int32_t id, int64_t top) const {
  float total = 0;
  log_sum_exp(engine_.stream(), Tensor(&total, {1}), logits);
  TokenLogprobs out{{id, logits.f32()[id] - total}, largest(logits.f32(), limit_, top)};
  for (TokenLogprob& t : out.top) t.logprob -= total;
  return out;
}

void Text::deliver() {
  const int64_t kept = std::exchange(kept_, std::nullopt).value_or(session_.length());
  if (kept < session_.length()) session_.truncate(kept);
  result_.accepted += std::exchange(newly_accepted_, 0);
  try {
    if (!prompt_logprobs_.empty()) request_.receiver->prompt(prompt_logprobs_);
    for (const Event& e : events_) {
      if (result_.tokens == 0) result_.first_token_seconds = seconds_since_submission();
      if (request_.receiver->token({e.id, result_.tokens++, request_.top_logprobs ? &e.logprobs : nullptr})) continue;
      has_ended_ = false;  // this end comes before that of tokens after it
      end(Finish::stopped);
      break;
    }
  } catch (...) {
    has_ended_ = false;  // as above
    end_by_exception();
  }
  prompt_logprobs_.clear();
  events_.clear();
}

void Text::end(Finish finish, std::string error) {
  if (std::exchange(has_ended_, true)) return;
  result_.finish = finish;
  result_.error = std::move(error);
}

/// By the one that is being handled.
void Text::end_by_exception() {
  try {
    throw;
  } catch (const Error& e) {
    result_.is_mistake = true;
    end(Finish::failed, e.what());
  } catch (const std::exception& e) {
    end(Finish::failed, e.what());
  }
}

void Text::finish() {
  leave();
  result_.seconds = seconds_since_submission();
  try {
    request_.receiver->finished(result_);
  } catch (const std::exception&) {  // its own affair
  }
}

void Text::join(std::span<const int32_t> cached_pages, uint64_t number) {
  joined_ = number;
  session_.adopt(ids().first(cached_pages.size() * kPageTokens), cached_pages);
  published_pages_ = static_cast<int64_t>(cached_pages.size());
  if (std::exchange(has_run_, true)) return;
  result_.cached_tokens = session_.length();
  result_.queue_seconds = seconds_since_submission();
}

void Text::publish(PrefixCache& cache, KvCache& pages) {
  const int64_t full = std::min(session_.length(), prompt_length()) / kPageTokens;
  if (full <= published_pages_) return;
  const auto cached = cache.insert(ids().first(static_cast<size_t>(full * kPageTokens)),
                                   session_.pages().first(static_cast<size_t>(full)));
  for (size_t i = 0; i < cached.size(); ++i) {
    if (cached[i] == session_.pages()[i]) continue;
    pages.retain(cached[i]);
    session_.share(i, cached[i]);
  }
  published_pages_ = full;
}

void Text::leave() {
  furthest_ = std::max(furthest_, session_.length());
  session_.stop_drafting();
  session_.truncate(0);
}

int64_t Text::fed_before(int64_t rows) const {
  return std::clamp<int64_t>(furthest_ - (session_.length() - rows), 0, rows);
}

double Text::seconds_since_submission() const {
  return std::chrono::duration<double>(Clock::now() - submitted_).count();
}

}  // namespace sluice
