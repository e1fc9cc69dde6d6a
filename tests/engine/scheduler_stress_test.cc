// Thousands of random requests, and requests from many threads.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "agreeing_model.h"
#include "engine/scheduler.h"
#include "request_fixture.h"

namespace sluice::test {
namespace {

TEST(Scheduler, LosesNoPageInThousandsOfSteps) {
  TestFolder folder;
  Engine engine(stream(2), small_model(), {256, 512, 0});
  std::vector<Asked> all;
  std::vector<bool> is_plain;
  {
    SchedulerOptions options;
    options.max_running = 6;
    options.prompt_tokens = 40;
    options.cache_folder = folder.path();
    options.cache_bytes = 100000;
    Scheduler scheduler(engine, options);
    Rng rng(15);
    const std::vector<int32_t> shared = random_ids(rng, 200, 150);
    for (int step = 0; step < 4000; ++step) {
      const uint64_t what = rng.below(40);
      if (what < 8 && scheduler.stats().waiting < 10) {
        Asked a = random_request(rng, 60, 150);
        a.prompt.insert(a.prompt.begin(), shared.begin(), shared.begin() + static_cast<int64_t>(rng.below(170)));
        a.recorder = std::make_shared<Recorder>(rng.below(10) == 0 ? 5 : SIZE_MAX);
        Request r = request_of(a, std::string(1, static_cast<char>('a' + rng.below(3))));
        r.prompt_logprobs = rng.below(10) == 0;
        is_plain.push_back(rng.below(20) > 0);
        if (!is_plain.back()) r.constraint = std::make_unique<Turns>(9, 30);
        a.id = scheduler.submit(std::move(r)).id;
        EXPECT_NE(a.id, 0u);
        all.push_back(a);
      } else if (what == 8 && !all.empty()) {
        scheduler.cancel(all[rng.below(all.size())].id);
      }
      scheduler.step();
      const SchedulerStats s = scheduler.stats();
      EXPECT_LE(s.pages_used + s.pages_idle, s.pages);
      EXPECT_LE(s.running, 6);
      EXPECT_TRUE(s.running > 0 || s.pages_used == 0);
    }
    run_all(scheduler);
    const SchedulerStats s = scheduler.stats();
    EXPECT_GT(s.preemptions, 0);
    EXPECT_GT(s.cache_hit, 1000);
    EXPECT_GT(all.size(), 150u);
    EXPECT_EQ(s.pages_used, 0);
    EXPECT_EQ(s.running + s.waiting, 0);
  }
  EXPECT_EQ(engine.cache().free_pages(), engine.cache().pages());
  for (size_t i = 0; i < all.size(); ++i) {
    ASSERT_TRUE(all[i].recorder->result) << i;
    const Finish finish = all[i].recorder->result->finish;
    EXPECT_NE(finish, Finish::expired);
    if (finish == Finish::max_tokens && is_plain[i] && i % 4 == 0) expect_as_generated(small_model(), all[i], 256);
  }
}

/// Tells when it is over.
class Waited : public Recorder {
 public:
  void finished(const RequestResult& r) override {
    Recorder::finished(r);
    const std::lock_guard lock(mutex_);
    is_over_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_over_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_over_ = false;
};

TEST(Scheduler, ServesManyThreads) {
  Engine engine(stream(2), small_model(), {kContext, 8 * kContext, 0});
  std::vector<std::vector<Asked>> all(4);
  {
    Scheduler scheduler(engine, {});
    scheduler.start();
    std::vector<std::thread> threads;
    for (size_t t = 0; t < all.size(); ++t)
      threads.emplace_back([&, t] {
        Rng rng(t);
        for (int i = 0; i < 10; ++i) {
          Asked a = random_request(rng, 100, 30);
          const auto waited = std::make_shared<Waited>();
          a.recorder = waited;
          submit(scheduler, a, std::string(1, static_cast<char>('a' + t)));
          if (i % 5 == 4) scheduler.cancel(a.id);
          if (i % 3 != 0) waited->wait();
          scheduler.stats();
          all[t].push_back(a);
        }
        for (Asked& a : all[t]) static_cast<Waited&>(*a.recorder).wait();
      });
    for (std::thread& t : threads) t.join();
  }
  for (const auto& of_thread : all)
    for (const Asked& a : of_thread)
      if (a.recorder->result->finish != Finish::cancelled) expect_as_generated(small_model(), a, kContext);
  EXPECT_EQ(engine.cache().free_pages(), engine.cache().pages());
}

}  // namespace
}  // namespace sluice::test
