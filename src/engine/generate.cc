#include "engine/generate.h"

#include <algorithm>
#include <chrono>

#include "engine/sampler.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

Tensor row(const Tensor& logits, int64_t i) { return logits.slice_rows(i, 1); }

/// Decides whether drafting pays: some passes with it, as many without, then the faster of the two.
class DraftSwitch {
 public:
  explicit DraftSwitch(bool measure, bool on) : measure_(measure), on_(on) {}

  bool on() const { return measure_ ? passes_ <= kPasses : on_; }
  bool decided() const { return !measure_; }
  /// A pass that gave `tokens` took `seconds`.
  void add(int64_t tokens, double seconds) {
    if (!measure_) return;
    if (passes_ != 0 && passes_ != kPasses + 1) {  // the first pass of each kind warms up
      const int kind = on() ? 1 : 0;
      tokens_[kind] += static_cast<double>(tokens);
      seconds_[kind] += seconds;
    }
    if (++passes_ <= 2 * kPasses + 1) return;
    measure_ = false;
    on_ = tokens_[1] * seconds_[0] > tokens_[0] * seconds_[1];
  }

 private:
  static constexpr int kPasses = 8;
  bool measure_, on_;
  int passes_ = 0;
  double tokens_[2] = {}, seconds_[2] = {};
};

class Generator {
 public:
  Generator(Session& session, const GenerateOptions& options, const TokenReceiver& receive)
      : session_(session),
        options_(options),
        receive_(receive),
        sampler_(session.engine().stream(), options.rule, options.seed,
                 options.vocab_limit ? std::min(options.vocab_limit, session.engine().config().vocab_size)
                                     : session.engine().config().vocab_size),
        switch_(options.draft == Draft::automatic && session.drafts() && options.rule.temperature == 0,
                options.draft != Draft::off && session.drafts()) {}

  GenerateResult run(std::span<const int32_t> prompt) {
    const auto start = Clock::now();
    int32_t next = feed_prompt(prompt);
    const auto first = Clock::now();
    result_.prompt_seconds = seconds_between(start, first);
    while (emit(next)) {
      if (session_.room() == 0) {
        finish(Finish::context_full);
        break;
      }
      const auto begin = Clock::now();
      const int64_t before = result_.tokens;
      const bool more = switch_.on() ? drafted_step(next) : plain_step(next);
      switch_.add(result_.tokens - before + 1, seconds_between(begin, Clock::now()));
      if (switch_.decided() && !switch_.on() && session_.drafts()) session_.stop_drafting();
      if (!more) break;
    }
    result_.seconds = seconds_between(first, Clock::now());
    result_.drafting = switch_.on();
    return result_;
  }

 private:
  int32_t feed_prompt(std::span<const int32_t> prompt) {
    if (prompt.empty()) fail("prompt: expected at least one token");
    result_.prompt_tokens = static_cast<int64_t>(prompt.size());
    if (result_.prompt_tokens > session_.engine().context())
      fail("prompt: expected at most {} tokens (the context), found {}", session_.engine().context(), prompt.size());
    result_.kept_tokens = session_.rewind(prompt);
    const Tensor logits = session_.feed(prompt.subspan(static_cast<size_t>(result_.kept_tokens)), 1);
    return sampler_.choose(logits, session_.length());
  }

  /// Gives a token away; false when the text ends with it or before it.
  bool emit(int32_t id) {
    if (std::find(options_.stop_ids.begin(), options_.stop_ids.end(), id) != options_.stop_ids.end())
      return finish(Finish::stop_id);
    if (result_.tokens >= options_.max_tokens) return finish(Finish::max_tokens);
    ++result_.tokens;
    if (!receive_(id)) return finish(Finish::stopped);
    return result_.tokens < options_.max_tokens || finish(Finish::max_tokens);
  }

  bool finish(Finish reason) {
    result_.finish = reason;
    return false;
  }

  /// Feeds `next`, which was given away, and replaces it by the token after it.
  bool plain_step(int32_t& next) {
    const Tensor logits = session_.feed(std::span(&next, 1), 1);
    next = sampler_.choose(logits, session_.length());
    return true;
  }

  /// The same with a proposal for the token after `next`; if it is accepted, it is given away and `next` comes after
  /// it.
  bool drafted_step(int32_t& next) {
    if (session_.room() < 2) return plain_step(next);
    const int64_t position = session_.length() + 1;
    const int32_t proposal = sampler_.propose(session_.draft(next), position);
    const int32_t fed[] = {next, proposal};
    const Tensor logits = session_.feed(fed, 2);
    ++result_.proposed;
    next = sampler_.verify(row(logits, 0), position, proposal);
    if (next != proposal) {
      session_.truncate(position);
      return true;
    }
    ++result_.accepted;
    if (!emit(next)) return false;
    next = sampler_.choose(row(logits, 1), position + 1);
    return true;
  }

  Session& session_;
  const GenerateOptions& options_;
  const TokenReceiver& receive_;
  TokenSampler sampler_;
  DraftSwitch switch_;
  GenerateResult result_;
};

}  // namespace

GenerateResult generate(Session& session, std::span<const int32_t> prompt, const GenerateOptions& options,
                        const TokenReceiver& receive) {
  return Generator(session, options, receive).run(prompt);
}

}  // namespace sluice
