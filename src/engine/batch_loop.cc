#include "engine/batch_loop.h"

#include <algorithm>
#include <chrono>

#include "engine/lookup.h"
#include "engine/prefix_fingerprint.h"

namespace sluice {
namespace {

/// Rows of a prompt whose logits are wanted, in a pass: they are as long as the vocabulary.
constexpr int64_t kEchoRows = 64;
/// So many tokens at the end of a prompt at least are the MTP module's to see. It has the model's hidden state besides.
constexpr int64_t kDraftPrompt = 192;

std::unique_ptr<PrefixStore> open_store(Engine& engine, const SchedulerOptions& o) {
  if (o.cache_folder.empty()) return nullptr;
  return std::make_unique<PrefixStore>(o.cache_folder, prefix_fingerprint(engine), o.cache_bytes, engine.cache(),
                                       engine.config().num_hidden_layers);
}

/// Full pages of tokens at the beginning of both.
int64_t common_pages(std::span<const int32_t> a, std::span<const int32_t> b) {
  return (std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin()) / kPageTokens;
}

}  // namespace

BatchLoop::BatchLoop(Engine& engine, const SchedulerOptions& options)
    : engine_(engine),
      options_(options),
      store_(open_store(engine, options)),
      prefixes_(engine.cache(), store_.get()),
      pace_(options.prompt_seconds, options.prompt_tokens),
      experts_(engine.model()) {
  stats_.finished.resize(static_cast<size_t>(Finish::failed) + 1);
  engine_.observe_routing([this](const Tensor& choice, const Matrix& router) { experts_.add(choice, router); });
}

BatchLoop::~BatchLoop() { engine_.observe_routing({}); }

void BatchLoop::add(std::unique_ptr<Text> text) { queue_.push(std::move(text)); }

bool BatchLoop::step() {
  try {
    const auto start = Text::Clock::now();
    admit();
    plan();
    if (parts_.empty()) {  // no text runs that would wait for the disk too; one that comes meanwhile does
      if (!prefixes_.is_reading()) return false;
      prefixes_.take_read(true);
      return true;
    }
    run();
    account(std::chrono::duration<double>(Text::Clock::now() - start).count());
    deliver();
  } catch (const std::exception& e) {
    fail_all(e.what());
  }
  remove_ended();
  return true;
}

// Joining and leaving.

/// Whether pages that `text` can share are being computed, or read from the store. They are read for one text at a
/// time, so that those of others are not evicted for it, and once only: where they are evicted nevertheless, they are
/// computed.
bool BatchLoop::must_wait(Text& text) {
  if (is_being_computed(text)) return true;
  QueueState& state = text.queued();
  if (!state.reading_begun && prefixes_.is_reading()) {
    if (!state.is_stored) state.is_stored = prefixes_.is_stored(text.shareable());
    return *state.is_stored;
  }
  if (!std::exchange(state.reading_begun, true)) state.reading = prefixes_.begin_reading(text.shareable());
  return state.reading && prefixes_.is_reading(*state.reading);
}

/// Whether a prompt that runs is about to compute pages that `text` can share. This is asked for every text in the
/// queue before every pass; prompts are compared only when one of the two is new.
bool BatchLoop::is_being_computed(Text& text) const {
  QueueState& state = text.queued();
  if (state.computing != 0) {
    const auto other =
        std::find_if(running_.begin(), running_.end(), [&](const auto& t) { return t->id() == state.computing; });
    if (other != running_.end() && (*other)->is_in_prompt() &&
        (*other)->session().length() < state.common_pages * kPageTokens)
      return true;
    state.computing = state.compared = 0;
  }
  const auto ids = text.shareable();
  for (auto other = running_.rbegin(); other != running_.rend() && (*other)->joined() > state.compared; ++other) {
    if (!(*other)->is_in_prompt()) continue;
    const int64_t common = common_pages(ids, (*other)->request().prompt);
    if (common == 0 || common <= prefixes_.length(ids).pages) continue;
    state.computing = (*other)->id();
    state.common_pages = common;
    return true;
  }
  state.compared = joins_;
  return false;
}

/// Whether there are pages for what is known of `text` and one token, of which `cached` are cached (and `idle` of these
/// are counted among the idle), and one more for every text that runs.
bool BatchLoop::fits(const Text& text, int64_t cached, int64_t idle) const {
  const int64_t length = std::min(static_cast<int64_t>(text.ids().size()) + 1, engine_.context());
  const KvCache& cache = engine_.cache();
  return pages_for(length) - cached + static_cast<int64_t>(running_.size()) <=
         cache.free_pages() + cache.idle_pages() - idle;
}

void BatchLoop::admit() {
  prefixes_.take_read(false);
  while (static_cast<int64_t>(running_.size()) < options_.max_running) {
    std::unique_ptr<Text> text;
    if (!preempted_.empty()) {
      text = std::move(preempted_.front());
      preempted_.pop_front();
    } else {
      text = queue_.pop([&](Text& t) { return !must_wait(t); });
    }
    if (!text) return;
    const PrefixCache::Length cached = prefixes_.length(text->shareable());
    if (!running_.empty() && !fits(*text, cached.pages, cached.idle)) {
      if (text->result().preemptions > 0) {
        preempted_.push_front(std::move(text));
      } else {
        queue_.push_back_in(std::move(text));
      }
      return;
    }
    if (!join(std::move(text))) return;
  }
}

/// False when there were no pages for it after all.
bool BatchLoop::join(std::unique_ptr<Text> text) {
  Text& t = *text;
  running_.push_back(std::move(text));
  const PrefixCache::Found found = prefixes_.find(t.shareable());
  t.join(found.pages, ++joins_);
  if (t.result().preemptions == 0) {
    stats_.cache_queried += t.request().prompt_logprobs ? 0 : t.prompt_length();
    stats_.cache_hit += t.session().length();
    stats_.disk_hit += found.from_store * kPageTokens;
  }
  return make_room(t, static_cast<int64_t>(t.unfed().size()));
}

/// Sees to it that the text has pages for `tokens` more. False when it was itself the one to give its pages up.
bool BatchLoop::make_room(Text& text, int64_t tokens) {
  Session& session = text.session();
  const int64_t need = pages_for(session.length() + tokens) - static_cast<int64_t>(session.pages().size());
  while (engine_.cache().free_pages() < need) {
    if (prefixes_.evict()) continue;
    if (prefixes_.is_reading()) {  // into pages that can be evicted then
      prefixes_.take_read(true);
      continue;
    }
    const bool is_last = running_.back().get() == &text;
    preempt_last();
    if (is_last) return false;
  }
  session.reserve_pages(tokens);
  return true;
}

void BatchLoop::preempt_last() {
  check(running_.size() > 1, "BatchLoop: expected pages for one sequence");
  Text& text = *running_.back();
  text.leave();
  ++text.result().preemptions;
  ++stats_.preemptions;
  preempted_.push_front(std::move(running_.back()));
  running_.pop_back();
}

void BatchLoop::finish(Text& text) {
  text.finish();
  queue_.over(text.request().client);
  ++stats_.finished[static_cast<size_t>(text.result().finish)];
}

void BatchLoop::remove_ended() {
  for (auto* texts : {&running_, &preempted_}) {
    for (auto& t : *texts)
      if (t->has_ended()) finish(*t);
    std::erase_if(*texts, [](const auto& t) { return t->has_ended(); });
  }
}

void BatchLoop::fail_all(const char* error) {
  for (auto& t : running_) t->end(Finish::failed, error);
  parts_.clear();
}

// What goes into a pass.

void BatchLoop::plan() {
  parts_.clear();
  plan_texts();
  int64_t rows = 0;
  for (const Part& p : parts_) rows += static_cast<int64_t>(p.ids.size());
  plan_prompts(rows);
  std::stable_partition(parts_.begin(), parts_.end(), [](const Part& p) { return p.kind == RowKind::text; });
}

/// The next token of every text that has all but the last of its tokens fed.
void BatchLoop::plan_texts() {
  if (running_.size() != 1)
    for (auto& t : running_) t->session().stop_drafting();
  for (size_t i = 0; i < running_.size(); ++i) {
    Text& text = *running_[i];
    if (text.is_in_prompt() || text.unfed().size() != 1) continue;
    start_drafting(text);
    Part part{&text, {text.ids().back()}, drafts(text), RowKind::text, 0, text.session().length()};
    part.ids.insert(part.ids.end(), part.drafts.begin(), part.drafts.end());
    part.rows = static_cast<int64_t>(part.ids.size());
    if (make_room(text, part.rows)) parts_.push_back(std::move(part));
  }
}

/// Those that are not as far, in the order in which they are served: the shortest rest or the one that joined first
/// comes first, by turns.
std::vector<Text*> BatchLoop::prompts_in_turn() {
  std::vector<Text*> prompts;
  for (auto& t : running_)
    if (t->is_in_prompt() || t->unfed().size() > 1) prompts.push_back(t.get());
  if (stats_.passes % 2 == 0)
    std::stable_sort(prompts.begin(), prompts.end(),
                     [](const Text* a, const Text* b) { return a->unfed().size() < b->unfed().size(); });
  return prompts;
}

/// As many tokens of prompts as go into a pass beside `rows` of texts.
void BatchLoop::plan_prompts(int64_t rows) {
  int64_t left = std::min(engine_.pass_rows() - rows, pace_.tokens(rows > 0));
  for (Text* text : prompts_in_turn()) {
    if (left <= 0) return;
    start_drafting(*text);
    const int64_t length = text->session().length();
    int64_t tokens = static_cast<int64_t>(text->unfed().size());
    if (text->is_in_prompt()) tokens = std::min(tokens, text->prompt_length() - length);
    if (wants_module(*text) && length < module_begin(*text)) tokens = std::min(tokens, module_begin(*text) - length);
    if (text->request().prompt_logprobs && text->tokens() == 0) tokens = std::min(tokens, kEchoRows);
    tokens = std::min(tokens, left);
    left -= tokens;
    plan_part(*text, tokens);
  }
}

/// The next `tokens` of a prompt, or of a text that is computed again.
void BatchLoop::plan_part(Text& text, int64_t tokens) {
  const auto unfed = text.unfed();
  const int64_t begin = text.session().length();
  const bool is_last = tokens == static_cast<int64_t>(unfed.size());
  Part part{&text,   {unfed.begin(), unfed.begin() + tokens},
            {},      text.is_in_prompt() ? RowKind::prompt : RowKind::text,
            is_last, begin + tokens - 1};
  if (text.request().prompt_logprobs && text.tokens() == 0) {
    part.rows = tokens;
    part.begin = begin;
  }
  parts_.push_back(std::move(part));
}

// Drafts. They are for a text that runs alone: in a batch the rows of drafts cost what the rows of other texts do, and
// only most of them are right. The MTP module begins at a full page, near the end of the prompt or later.

bool BatchLoop::wants_module(const Text& text) const {
  const Draft how = text.options().draft;
  return running_.size() == 1 && engine_.has_mtp() &&
         (how == Draft::on || (how == Draft::automatic && !draft_switch_.slower()));
}

/// Where the MTP module begins in a prompt.
int64_t BatchLoop::module_begin(const Text& text) const {
  return std::max<int64_t>(0, text.prompt_length() - kDraftPrompt) / kPageTokens * kPageTokens;
}

void BatchLoop::start_drafting(Text& text) {
  Session& session = text.session();
  if (!wants_module(text)) {
    session.stop_drafting();
  } else if (!session.drafts() && session.length() % kPageTokens == 0 && session.length() >= module_begin(text)) {
    session.start_drafting();
  }
}

/// What may follow the last token of the text; as generate() drafts.
std::vector<int32_t> BatchLoop::drafts(Text& text) {
  const Draft how = text.options().draft;
  Session& session = text.session();
  const int64_t most = std::min({kMostDrafts, session.room() - 1, text.options().max_tokens - text.tokens() - 1});
  if (running_.size() != 1 || most < 1 || how == Draft::off || (how == Draft::automatic && !draft_switch_.on()))
    return {};
  if (engine_.has_mtp() && how != Draft::lookup)
    return session.draft_rows() > 0 ? text.draft() : std::vector<int32_t>();
  const auto found = lookup_draft(text.ids(), most);
  return {found.begin(), found.end()};
}

// The pass.

void BatchLoop::run() {
  std::vector<BatchItem> items;
  for (const Part& p : parts_) items.push_back({&p.text->session(), p.ids, p.kind, p.rows});
  if (draw_on_gpu(items)) return;
  feed_batch(engine_, items, logits_);
  choose();
}

/// The whole pass where a GPU can draw all of its tokens; else false.
bool BatchLoop::draw_on_gpu(std::span<const BatchItem> items) {
  if (!engine_.is_on_gpu()) return false;
  std::vector<Draw> draws;
  for (const Part& p : parts_) {
    const auto draw = p.text->plain_draw();
    if (!draw || p.kind != RowKind::text || p.ids.size() != 1 || p.rows != 1) return false;
    if (!draws.empty() && draw->limit != draws[0].limit) return false;
    draws.push_back(*draw);
  }
  std::vector<int32_t> ids(draws.size());
  feed_batch(engine_, items, draws, ids);
  for (size_t i = 0; i < ids.size(); ++i) parts_[i].text->take_drawn(ids[i], parts_[i].begin);
  return true;
}

/// The next tokens of all texts, each by a task of its own: to choose reads all of the vocabulary.
void BatchLoop::choose() {
  const int64_t V = engine_.config().vocab_size;
  std::vector<float*> first_row;
  float* row = logits_.data();
  for (const Part& p : parts_) {
    first_row.push_back(row);
    row += p.rows * V;
  }
  engine_.stream().pool().run(static_cast<int64_t>(parts_.size()), [&](int64_t i, int) {
    const Part& p = parts_[static_cast<size_t>(i)];
    if (p.rows > 0) p.text->take(Tensor(first_row[static_cast<size_t>(i)], {p.rows, V}), p.begin, p.drafts);
  });
}

/// Counts what the pass has computed, and learns from how long it took.
void BatchLoop::account(double seconds) {
  int64_t prompt_rows = 0, text_rows = 0;
  for (const Part& p : parts_) {
    const int64_t rows = static_cast<int64_t>(p.ids.size());
    const int64_t again = p.text->fed_before(rows);
    (p.rows == rows && p.kind == RowKind::text ? text_rows : prompt_rows) += rows;
    stats_.prompt_tokens += p.kind == RowKind::prompt ? rows - again : 0;
    stats_.recomputed_tokens += again;
    stats_.proposed += static_cast<int64_t>(p.drafts.size());
    p.text->result().proposed += static_cast<int64_t>(p.drafts.size());
    queue_.charge(p.text->request().client, rows);
  }
  ++stats_.passes;
  pace_.add(text_rows, prompt_rows, seconds);
  const Text& first = *parts_.front().text;
  if (running_.size() == 1 && prompt_rows == 0 && first.options().draft == Draft::automatic)
    draft_switch_.add(text_rows, 1 + first.newly_accepted(), seconds);
}

void BatchLoop::deliver() {
  for (const Part& p : parts_) {
    if (p.kind == RowKind::prompt) p.text->publish(prefixes_, engine_.cache());
    const int64_t tokens = p.text->result().tokens;
    stats_.accepted += p.text->newly_accepted();
    p.text->deliver();
    stats_.text_tokens += p.text->result().tokens - tokens;
  }
}

const SchedulerStats& BatchLoop::stats() {
  const KvCache& cache = engine_.cache();
  stats_.running = static_cast<int64_t>(running_.size());
  stats_.waiting = waiting();
  stats_.pages = cache.pages();
  stats_.pages_idle = cache.idle_pages();
  stats_.pages_used = cache.pages() - cache.free_pages() - cache.idle_pages();
  return stats_;
}

}  // namespace sluice
