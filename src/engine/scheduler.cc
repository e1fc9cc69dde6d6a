#include "engine/scheduler.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "engine/batch_loop.h"

namespace sluice {
namespace {

const SchedulerOptions& checked(const SchedulerOptions& o, const Engine& engine) {
  if (o.max_running < 1 || o.max_running > engine.pass_rows())
    fail("running requests: expected 1 to {}, found {}", engine.pass_rows(), o.max_running);
  if (o.max_waiting < 1 || o.prompt_tokens < 1 || !(o.prompt_seconds > 0))
    fail("scheduler: expected places in the queue, and tokens and time for prompts");
  return o;
}

bool are_ids(std::span<const int32_t> ids, int64_t vocab) {
  return std::all_of(ids.begin(), ids.end(), [&](int32_t id) { return id >= 0 && id < vocab; });
}

bool is_in(float value, float least, float most) { return value >= least && value <= most; }  // false for NaN

/// What is wrong with a request, as one line; empty: nothing.
std::string complaint(const Request& r, const HfConfig& config) {
  const SamplingRule& rule = r.options.rule;
  const float huge = std::numeric_limits<float>::max();
  if (!r.receiver) return "request: expected a receiver";
  if (r.prompt.empty()) return "prompt: expected at least one token";
  if (!are_ids(r.prompt, config.vocab_size))
    return fmt::format("prompt: expected token ids from 0 to {}", config.vocab_size - 1);
  if (!is_in(rule.temperature, 0, huge) || rule.top_k < 0 || !(rule.top_p > 0) || !is_in(rule.top_p, 0, 1) ||
      !is_in(rule.min_p, 0, 1))
    return "sampling: expected temperature >= 0, top_k >= 0, 0 < top_p <= 1, 0 <= min_p <= 1";
  if (!(rule.repetition_penalty > 0) || !std::isfinite(rule.repetition_penalty) ||
      !std::isfinite(rule.frequency_penalty) || !std::isfinite(rule.presence_penalty))
    return "sampling: expected a positive repetition penalty, and penalties that are numbers";
  for (const LogitBias& b : r.options.logit_bias)
    if (!are_ids(std::span(&b.id, 1), config.vocab_size) || !std::isfinite(b.bias))
      return "logit_bias: expected token ids of the vocabulary and numbers";
  if (r.options.max_tokens < 0 || r.options.vocab_limit < 0) return "max_tokens: expected 0 or more";
  const int64_t top = r.top_logprobs.value_or(0);
  if (top < 0 || top > kMostTopLogprobs) return fmt::format("top_logprobs: expected 0 to {}", kMostTopLogprobs);
  return {};
}

}  // namespace

/// What other threads see, and the thread.
class Scheduler::Loop {
 public:
  Loop(Engine& engine, const SchedulerOptions& options)
      : engine_(engine), options_(checked(options, engine)), batch_(engine, options), stats_(batch_.stats()) {}

  ~Loop() {
    {
      const std::lock_guard lock(mutex_);
      is_closed_ = stop_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
    take_inbox();
    batch_.end_if([](const Text&) { return std::optional(Finish::cancelled); });
  }

  Submission submit(Request request) {
    const std::string wrong = complaint(request, engine_.config());
    if (!wrong.empty()) return {Submitted::invalid, 0, wrong};
    if (static_cast<int64_t>(request.prompt.size()) > engine_.context())
      return {Submitted::too_long, 0,
              fmt::format("prompt: expected at most {} tokens (the context), found {}", engine_.context(),
                          request.prompt.size())};
    const std::lock_guard lock(mutex_);
    if (is_closed_) return {Submitted::closed, 0, "the server is shutting down"};
    if (waiting_ + static_cast<int64_t>(inbox_.size()) >= options_.max_waiting)
      return {Submitted::queue_full, 0, fmt::format("{} requests are waiting already", options_.max_waiting)};
    const uint64_t id = ++last_id_;
    inbox_.emplace_back(id, std::move(request), Text::Clock::now());
    wake_.notify_all();
    return {Submitted::accepted, id, {}};
  }

  void cancel(uint64_t id) {
    const std::lock_guard lock(mutex_);
    cancelled_.insert(id);
    wake_.notify_all();
  }

  void close() {
    const std::lock_guard lock(mutex_);
    is_closed_ = true;
  }

  SchedulerStats stats() const {
    const std::lock_guard lock(mutex_);
    SchedulerStats s = stats_;
    s.expert_load = batch_.expert_load();
    s.waiting += static_cast<int64_t>(inbox_.size());
    return s;
  }

  void start() {
    check(!thread_.joinable(), "Scheduler::start: expected to be called once");
    thread_ = std::thread([this] {
      while (wait()) step();
    });
  }

  bool step() {
    take_inbox();
    const bool did_something = end_gone();
    const bool made_pass = batch_.step();
    const std::lock_guard lock(mutex_);
    stats_ = batch_.stats();
    waiting_ = stats_.waiting;
    is_idle_ = !made_pass;
    return did_something || made_pass;
  }

 private:
  struct Arrival {
    uint64_t id;
    Request request;
    Text::Clock::time_point time;
  };

  /// Sleeps while there is nothing to do; false when it is over.
  bool wait() {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return stop_ || !is_idle_ || !inbox_.empty() || !cancelled_.empty(); });
    return !stop_;
  }

  void take_inbox() {
    std::vector<Arrival> arrivals;
    {
      const std::lock_guard lock(mutex_);
      arrivals.swap(inbox_);
      waiting_ += static_cast<int64_t>(arrivals.size());
    }
    for (Arrival& a : arrivals) batch_.add(std::make_unique<Text>(a.id, std::move(a.request), engine_, a.time));
  }

  /// Ends what was cancelled and what is too late. Whether there was any.
  bool end_gone() {
    std::set<uint64_t> cancelled;
    {
      const std::lock_guard lock(mutex_);
      cancelled.swap(cancelled_);
    }
    const auto now = Text::Clock::now();
    bool found = false;
    batch_.end_if([&](const Text& t) -> std::optional<Finish> {
      const bool is_cancelled = cancelled.contains(t.id()), is_late = t.request().deadline.value_or(now) < now;
      found = found || is_cancelled || is_late;
      if (is_cancelled) return Finish::cancelled;
      if (is_late) return Finish::expired;
      return std::nullopt;
    });
    return found;
  }

  Engine& engine_;
  const SchedulerOptions options_;
  BatchLoop batch_;           // the loop's thread alone
  mutable std::mutex mutex_;  // for all below
  std::condition_variable wake_;
  std::vector<Arrival> inbox_;
  std::set<uint64_t> cancelled_;
  uint64_t last_id_ = 0;
  int64_t waiting_ = 0;  // in the loop's queue
  SchedulerStats stats_;
  bool is_closed_ = false, stop_ = false, is_idle_ = true;
  std::thread thread_;
};

Scheduler::Scheduler(Engine& engine, const SchedulerOptions& options)
    : loop_(std::make_unique<Loop>(engine, options)) {}
Scheduler::~Scheduler() = default;

Submission Scheduler::submit(Request request) { return loop_->submit(std::move(request)); }
void Scheduler::cancel(uint64_t id) { loop_->cancel(id); }
void Scheduler::close() { loop_->close(); }
SchedulerStats Scheduler::stats() const { return loop_->stats(); }
void Scheduler::start() { loop_->start(); }
bool Scheduler::step() { return loop_->step(); }

}  // namespace sluice
