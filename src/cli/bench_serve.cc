// sluice bench serve: tokens per second of many requests at the same time, as the server runs them, without its HTTP.
#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "base/rng.h"
#include "cli/bench.h"
#include "cli/inference.h"
#include "engine/scheduler.h"

namespace sluice {
namespace {

struct Options {
  InferenceOptions inference;
  SamplingOptions sampling;
  int64_t streams = 16, requests = 48, prompt = 32, shared = 0;
  bool json = false;
};

/// Submits a new request whenever one is over, so that so many run at a time.
class Load {
 public:
  Load(const Inference& inference, const Options& o)
      : options_(o), vocab_(inference.engine->config().vocab_size), generate_(generate_options(o.sampling, inference)) {
    generate_.stop_ids.clear();  // every text is as long
    shared_ = random_ids(o.shared);
    SchedulerOptions scheduler;
    scheduler.max_running = scheduler.max_waiting = o.streams;
    scheduler_ = std::make_unique<Scheduler>(*inference.engine, scheduler);
  }

  void run() {
    scheduler_->start();
    for (int64_t i = 0; i < options_.streams; ++i) submit();
    std::unique_lock lock(mutex_);
    over_.wait(lock, [&] { return finished_ == options_.requests; });
  }

  SchedulerStats stats() const { return scheduler_->stats(); }
  std::vector<double> first_token_seconds;
  int64_t tokens = 0;

 private:
  class Receiver : public RequestReceiver {
   public:
    explicit Receiver(Load& load) : load_(load) {}
    bool token(const GeneratedToken&) override { return true; }
    void finished(const RequestResult& result) override { load_.finished(result); }

   private:
    Load& load_;
  };

  std::vector<int32_t> random_ids(int64_t n) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(rng_.below(static_cast<uint64_t>(vocab_))));
    return ids;
  }

  void submit() {
    Request r;
    {
      const std::lock_guard lock(mutex_);
      if (submitted_ == options_.requests) return;
      ++submitted_;
      r.prompt = shared_;
      const auto own = random_ids(options_.prompt);
      r.prompt.insert(r.prompt.end(), own.begin(), own.end());
      r.options = generate_;
      r.options.seed += static_cast<uint64_t>(submitted_);
    }
    r.receiver = std::make_shared<Receiver>(*this);
    const Submission s = scheduler_->submit(std::move(r));
    if (s.status != Submitted::accepted) fail("{}", s.message);
  }

  void finished(const RequestResult& result) {
    if (result.finish == Finish::cancelled) return;
    submit();
    const std::lock_guard lock(mutex_);
    first_token_seconds.push_back(result.first_token_seconds);
    tokens += result.tokens;
    ++finished_;
    over_.notify_all();
  }

  const Options& options_;
  const int64_t vocab_;
  GenerateOptions generate_;
  Rng rng_{1};
  std::vector<int32_t> shared_;
  std::mutex mutex_;
  std::condition_variable over_;
  int64_t submitted_ = 0, finished_ = 0;
  std::unique_ptr<Scheduler> scheduler_;
};

double share(std::vector<double> sorted, double q) {
  return sorted[static_cast<size_t>(q * static_cast<double>(sorted.size() - 1))];
}

void bench_serve(const Options& o) {
  InferenceOptions inference_options = o.inference;
  inference_options.context = o.shared + o.prompt + o.sampling.max_tokens;
  inference_options.cache_tokens = (o.streams + 1) * (inference_options.context + kPageTokens);
  const Inference inference = open_inference(inference_options);
  {
    Options warm_up = o;  // packs the weights
    warm_up.requests = o.streams;
    warm_up.sampling.max_tokens = 4;
    Load(inference, warm_up).run();
  }
  Load load(inference, o);
  const double seconds = seconds_of([&] { load.run(); });
  const SchedulerStats s = load.stats();
  std::sort(load.first_token_seconds.begin(), load.first_token_seconds.end());
  const double rate = static_cast<double>(load.tokens) / seconds;
  const double p50 = share(load.first_token_seconds, .5), p99 = share(load.first_token_seconds, .99);
  if (o.json) {
    JsonObject j;
    j.add("model", o.inference.model).add("streams", o.streams).add("requests", o.requests);
    j.add("tokens_per_second", rate).add("seconds", seconds).add("first_token_p50", p50).add("first_token_p99", p99);
    j.add("prompt_tokens", s.prompt_tokens).add("cached_tokens", s.cache_hit).add("passes", s.passes);
    fmt::print("{}\n", j.str());
    return;
  }
  fmt::print("{} requests of {} + {} tokens, {} at a time: {:.1f} tokens/s of text\n", o.requests, o.shared + o.prompt,
             o.sampling.max_tokens, o.streams, rate);
  fmt::print("  first token after {:.3f} s (median), {:.3f} s (99%); prompts: {} tokens computed, {} cached\n", p50,
             p99, s.prompt_tokens, s.cache_hit);
}

}  // namespace

void add_bench_serve_command(CLI::App& bench) {
  auto o = std::make_shared<Options>();
  CLI::App* c = bench.add_subcommand("serve", "Many requests at the same time, as the server runs them");
  const CLI::Range count(int64_t{1}, int64_t{1} << 24);
  c->add_option("--model", o->inference.model, "checkpoint folder or GGUF file")->required();
  c->add_option("--threads", o->inference.threads, "0: one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  add_device_option(*c, o->inference);
  c->add_option("--streams", o->streams, "requests at a time")->check(CLI::Range(1, 1024))->capture_default_str();
  c->add_option("--requests", o->requests, "requests in all")->check(count)->capture_default_str();
  c->add_option("--prompt", o->prompt, "tokens of a prompt of its own")->check(count)->capture_default_str();
  c->add_option("--shared", o->shared, "tokens that all prompts begin with")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24))
      ->capture_default_str();
  add_sampling_options(*c, o->sampling);
  c->add_flag("--json", o->json, "one JSON object");
  c->footer("Example: sluice bench serve --model model.gguf --streams 16 --max-tokens 128");
  c->callback([o] { bench_serve(*o); });
}

}  // namespace sluice
