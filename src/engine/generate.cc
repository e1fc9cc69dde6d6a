#include "engine/generate.h"

#include <algorithm>
#include <chrono>

#include "engine/lookup.h"
#include "engine/sampler.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

int64_t chosen_limit(const GenerateOptions& options, const HfConfig& config) {
  return options.vocab_limit ? std::min(options.vocab_limit, config.vocab_size) : config.vocab_size;
}

class Generator {
 public:
  Generator(Session& session, const GenerateOptions& options, const TokenReceiver& receive, DraftSwitch& drafting)
      : session_(session),
        options_(options),
        receive_(receive),
        drafting_(drafting),
        sampler_(session.engine().stream(), options.rule, options.seed,
                 chosen_limit(options, session.engine().config()), options.logit_bias) {}

  GenerateResult run(std::span<const int32_t> prompt) {
    const auto start = Clock::now();
    int32_t next = feed_prompt(prompt);
    const auto first = Clock::now();
    result_.prompt_seconds = seconds_between(start, first);
    bool more = emit(next);
    while (more) {
      if (session_.room() == 0) {
        finish(Finish::context_full);
        break;
      }
      const auto begin = Clock::now();
      const int64_t proposed = result_.proposed, accepted = result_.accepted;
      more = step(next);
      if (options_.draft == Draft::automatic)
        drafting_.add(1 + result_.proposed - proposed, 1 + result_.accepted - accepted,
                      seconds_between(begin, Clock::now()));
    }
    result_.seconds = seconds_between(first, Clock::now());
    result_.measured_slower = options_.draft == Draft::automatic && drafting_.slower();
    return result_;
  }

 private:
  int32_t feed_prompt(std::span<const int32_t> prompt) {
    if (prompt.empty()) fail("prompt: expected at least one token");
    result_.prompt_tokens = static_cast<int64_t>(prompt.size());
    if (result_.prompt_tokens > session_.engine().context())
      fail("prompt: expected at most {} tokens (the context, --ctx), found {}", session_.engine().context(),
           prompt.size());
    result_.kept_tokens = session_.rewind(prompt);
    const Tensor logits = session_.feed(prompt.subspan(static_cast<size_t>(result_.kept_tokens)), 1);
    ids_.assign(prompt.begin(), prompt.end());
    sampler_.see(prompt);
    return sampler_.choose(logits, session_.length());
  }

  /// Gives a token away; false when the text ends with it or before it.
  bool emit(int32_t id) {
    if (std::find(options_.stop_ids.begin(), options_.stop_ids.end(), id) != options_.stop_ids.end())
      return finish(Finish::stop_id);
    if (result_.tokens >= options_.max_tokens) return finish(Finish::max_tokens);
    ++result_.tokens;
    ids_.push_back(id);
    sampler_.add(id);
    if (!receive_(id)) return finish(Finish::stopped);
    return result_.tokens < options_.max_tokens || finish(Finish::max_tokens);
  }

  bool finish(Finish reason) {
    result_.finish = reason;
    return false;
  }

  /// What may follow the last token given away, which is not fed yet: no more than fits, nor than may be given away
  /// before the token after them.
  std::vector<int32_t> drafts() {
    const int64_t most = std::min({kMostDrafts, session_.room() - 1, options_.max_tokens - result_.tokens - 1});
    if (most < 1 || options_.draft == Draft::off || (options_.draft == Draft::automatic && !drafting_.on())) return {};
    if (session_.drafts() && options_.draft != Draft::lookup)
      return {sampler_.choose(session_.draft(ids_.back()), session_.length() + 1)};
    const auto found = lookup_draft(ids_, most);
    return {found.begin(), found.end()};
  }

  /// Feeds `next` and leaves the token after it there, where the GPU can do both; else false.
  bool draw_on_gpu(int32_t& next) {
    Engine& engine = session_.engine();
    const auto draw = sampler_.plain_draw(session_.length() + 1);
    if (!engine.is_on_gpu() || session_.drafts() || !draw) return false;
    const int32_t fed = next;
    const BatchItem item{&session_, {&fed, 1}};
    feed_batch(engine, {&item, 1}, {&*draw, 1}, {&next, 1});
    return true;
  }

  /// One pass: feeds `next`, which was given away, and drafts of what comes after it; gives away the drafts that are
  /// right. Leaves the token after these in `next`; false when the text ended before it.
  bool step(int32_t& next) {
    std::vector<int32_t> fed = drafts();
    fed.insert(fed.begin(), next);
    if (fed.size() == 1 && draw_on_gpu(next)) return emit(next);
    const int64_t rows = static_cast<int64_t>(fed.size()), begin = session_.length();
    const Tensor logits = session_.feed(fed, rows, RowKind::text);
    result_.proposed += rows - 1;
    for (int64_t i = 0;; ++i) {
      next = sampler_.choose(logits.slice_rows(i, 1), begin + i + 1);
      if (i + 1 == rows || next != fed[static_cast<size_t>(i + 1)]) {
        session_.truncate(begin + i + 1);
        return emit(next);
      }
      ++result_.accepted;
      if (!emit(next)) {
        session_.truncate(begin + i + 1);
        return false;
      }
    }
  }

  Session& session_;
  const GenerateOptions& options_;
  const TokenReceiver& receive_;
  DraftSwitch& drafting_;
  TokenSampler sampler_;
  std::vector<int32_t> ids_;  // prompt and text
  GenerateResult result_;
};

}  // namespace

GenerateResult generate(Session& session, std::span<const int32_t> prompt, const GenerateOptions& options,
                        const TokenReceiver& receive, DraftSwitch* drafting) {
  DraftSwitch new_here;
  return Generator(session, options, receive, drafting ? *drafting : new_here).run(prompt);
}

}  // namespace sluice
