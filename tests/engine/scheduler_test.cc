#include "engine/scheduler.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "agreeing_model.h"
#include "request_fixture.h"

namespace sluice::test {
namespace {

TEST(Scheduler, OneRequestIsGenerated) {
  Rng rng(1);
  for (int i = 0; i < 20; ++i) {
    Engine engine(stream(2), small_model(), {kContext, 0, 0});
    Scheduler scheduler(engine, {});
    Asked a = random_request(rng, 200, 60);
    submit(scheduler, a);
    run_all(scheduler);
    expect_as_generated(small_model(), a, kContext);
    EXPECT_EQ(a.recorder->result->prompt_tokens, static_cast<int64_t>(a.prompt.size()));
    EXPECT_EQ(a.recorder->result->cached_tokens, 0);
  }
}

TEST(Scheduler, TextsEndWhereTheContextDoes) {
  for (const int64_t length : {1, 60, 64, 65, 99, 100}) {
    Engine engine(stream(1), small_model(), {100, 400, 0});
    Scheduler scheduler(engine, {});
    Rng rng(3);
    std::vector<Asked> all = {asked_of(random_ids(rng, length, 150), 1000), asked_of(random_ids(rng, length, 150), 7)};
    for (Asked& a : all) submit(scheduler, a);
    run_all(scheduler);
    expect_all_as_generated(small_model(), all, 100);
    EXPECT_EQ(all[0].recorder->result->finish, Finish::context_full);
  }
}

TEST(Scheduler, ATextDoesNotDependOnTheBatch) {
  // Requests arrive at random; prompts are cut into chunks, and texts go on beside them.
  for (const int64_t chunk : {7, 64, 1024}) {
    Rng rng(static_cast<uint64_t>(chunk));
    Engine engine(stream(2), small_model(), {kContext, 16 * kContext, 0});
    SchedulerOptions options;
    options.prompt_tokens = chunk;
    options.max_running = 12;
    Scheduler scheduler(engine, options);
    std::vector<Asked> all;
    for (int i = 0; i < 30; ++i) all.push_back(random_request(rng, i % 5 == 0 ? 400 : 40, 50));
    int64_t most_running = 0;
    for (Asked& a : all) {
      submit(scheduler, a);
      for (uint64_t steps = rng.below(6); steps > 0; --steps) scheduler.step();
      most_running = std::max(most_running, scheduler.stats().running);
    }
    run_all(scheduler);
    EXPECT_GT(most_running, 4);
    EXPECT_LE(most_running, 12);
    expect_all_as_generated(small_model(), all);
  }
}

TEST(Scheduler, APrefixIsComputedOnce) {
  // Twenty at the same time, and one much later.
  Rng rng(5);
  Engine engine(stream(2), small_model(), {kContext, 40 * kContext, 0});
  SchedulerOptions options;
  options.prompt_tokens = 50;
  Scheduler scheduler(engine, options);
  const std::vector<int32_t> shared = random_ids(rng, 300, 150);
  std::vector<Asked> all;
  int64_t rest = 0;
  for (int i = 0; i < 21; ++i) {
    std::vector<int32_t> prompt = shared;
    const auto own = random_ids(rng, 10 + i, 150);
    prompt.insert(prompt.end(), own.begin(), own.end());
    rest += static_cast<int64_t>(prompt.size()) - 256;  // full pages
    all.push_back(asked_of(prompt, 20, static_cast<uint64_t>(i)));
  }
  for (size_t i = 0; i < 20; ++i) submit(scheduler, all[i]);
  run_all(scheduler);
  submit(scheduler, all[20]);
  run_all(scheduler);
  expect_all_as_generated(small_model(), all);
  for (const Asked& a : all) EXPECT_EQ(a.recorder->result->cached_tokens, &a == &all[0] ? 0 : 256);
  const SchedulerStats s = scheduler.stats();
  EXPECT_EQ(s.prompt_tokens, 256 + rest);
  EXPECT_EQ(s.cache_hit, 20 * 256);
  EXPECT_EQ(s.cache_queried, 21 * 256 + rest);
}

TEST(Scheduler, APromptThatIsCachedInFullLeavesATokenToFeed) {
  Rng rng(5);
  Engine engine(stream(1), small_model(), {kContext, 4 * kContext, 0});
  Scheduler scheduler(engine, {});
  const std::vector<int32_t> prompt = random_ids(rng, 128, 150);
  for (int i = 0; i < 2; ++i) {
    Asked a = asked_of(prompt, 10);
    submit(scheduler, a);
    run_all(scheduler);
    expect_as_generated(small_model(), a, kContext);
    EXPECT_EQ(a.recorder->result->cached_tokens, i == 0 ? 0 : 64);
  }
}

TEST(Scheduler, TextIsNotSharedAsPrompt) {
  // A second turn holds the text of the first, whose rows have other bits than a prompt's.
  Rng rng(6);
  Engine engine(stream(1), small_model(), {kContext, 4 * kContext, 0});
  Scheduler scheduler(engine, {});
  Asked first = asked_of(random_ids(rng, 100, 150), 150);
  submit(scheduler, first);
  run_all(scheduler);
  std::vector<int32_t> turn = first.prompt;
  turn.insert(turn.end(), first.recorder->tokens.begin(), first.recorder->tokens.end());
  Asked second = asked_of(turn, 50, 3);
  submit(scheduler, second);
  run_all(scheduler);
  EXPECT_EQ(second.recorder->result->cached_tokens, 64);
  expect_as_generated(small_model(), second, kContext);
}

TEST(Scheduler, DraftsChangeNothing) {
  // Alone a text drafts; while others run it does not; then again.
  for (const Draft how : {Draft::on, Draft::automatic, Draft::lookup, Draft::off}) {
    Engine engine(stream(2), agreeing(), {kContext, 8 * kContext, 0});
    Scheduler scheduler(engine, {});
    Rng rng(7);
    std::vector<Asked> all;
    for (int i = 0; i < 4; ++i) {
      all.push_back(asked_of(random_ids(rng, i == 0 ? 5 : 300, 120), i == 1 ? 10 : 180, static_cast<uint64_t>(i),
                             i == 0 ? 0.f : 1.f));  // the first repeats itself
      all.back().options.draft = how;
    }
    for (Asked& a : all) {
      submit(scheduler, a);
      for (int steps = 0; steps < 30; ++steps) scheduler.step();
    }
    run_all(scheduler);
    expect_all_as_generated(agreeing(), all);
    const SchedulerStats s = scheduler.stats();
    EXPECT_EQ(s.proposed > 0, how != Draft::off) << static_cast<int>(how);
    int64_t proposed = 0, accepted = 0;
    for (const Asked& a : all) proposed += a.recorder->result->proposed, accepted += a.recorder->result->accepted;
    EXPECT_EQ(s.proposed, proposed);
    EXPECT_EQ(s.accepted, accepted);
    if (how != Draft::on) continue;
    EXPECT_GT(s.accepted, 10);
    EXPECT_LT(s.accepted, s.proposed);
    EXPECT_LT(all[1].recorder->result->proposed, 10);  // was never alone
  }
}

TEST(Scheduler, DraftsOfAModuleThatBeganLateAreAsGood) {
  Rng rng(8);
  Asked a = asked_of(random_ids(rng, 430, 120), 80);
  a.options.draft = Draft::on;
  Engine engine(stream(1), agreeing(), {kContext, 0, 0});
  Session session(engine, true);
  const GenerateResult whole = generate(session, a.prompt, a.options, [](int32_t) { return true; });
  session.truncate(0);
  Scheduler scheduler(engine, {});
  submit(scheduler, a);
  run_all(scheduler);
  const RequestResult& r = *a.recorder->result;
  EXPECT_GT(r.proposed, 30);
  EXPECT_NEAR(static_cast<double>(r.accepted) / static_cast<double>(r.proposed),
              static_cast<double>(whole.accepted) / static_cast<double>(whole.proposed), .15);
}

TEST(Scheduler, PreemptedTextsAreTheSame) {
  // Eight texts that grow to five pages each, in ten pages.
  Rng rng(9);
  Engine engine(stream(2), small_model(), {320, 640, 0});
  Scheduler scheduler(engine, {});
  std::vector<Asked> all;
  for (int i = 0; i < 8; ++i) all.push_back(asked_of(random_ids(rng, 20 + 10 * i, 150), 180, static_cast<uint64_t>(i)));
  for (Asked& a : all) submit(scheduler, a);
  run_all(scheduler);
  expect_all_as_generated(small_model(), all, 320);
  const SchedulerStats s = scheduler.stats();
  EXPECT_GT(s.preemptions, 2);
  EXPECT_GT(s.recomputed_tokens, 0);
  EXPECT_EQ(all[0].recorder->result->preemptions, 0);  // the oldest always goes on
  int64_t preemptions = 0, prompts = 0;
  for (const Asked& a : all) {
    preemptions += a.recorder->result->preemptions;
    prompts += static_cast<int64_t>(a.prompt.size());
  }
  EXPECT_EQ(preemptions, s.preemptions);
  EXPECT_EQ(s.prompt_tokens, prompts);
  EXPECT_EQ(s.text_tokens, 8 * 180);
  EXPECT_EQ(s.pages_used, 0);
}

TEST(Scheduler, PromptsAreEchoedWithLogProbabilities) {
  Rng rng(10);
  Engine engine(stream(2), small_model(), {320, 448, 0});
  SchedulerOptions options;
  options.prompt_tokens = 50;
  Scheduler scheduler(engine, options);
  std::vector<Asked> all;
  for (int i = 0; i < 8; ++i) all.push_back(asked_of(random_ids(rng, i == 0 ? 1 : 150, 150), i == 1 ? 0 : 100));
  all[3].prompt = all[2].prompt;  // what is cached is computed all the same
  for (Asked& a : all) {
    Request r = request_of(a);
    r.prompt_logprobs = true;
    EXPECT_EQ(scheduler.submit(std::move(r)).status, Submitted::accepted);
  }
  run_all(scheduler);
  EXPECT_GT(scheduler.stats().preemptions, 0);
  for (const Asked& a : all) {
    const Expected e = expected_of(small_model(), a, 320);
    expect_as_generated(small_model(), a, 320);
    ASSERT_EQ(a.recorder->prompt_logprobs.size(), a.prompt.size() - 1);
    for (size_t i = 0; i + 1 < a.prompt.size(); ++i) {
      const TokenLogprobs& t = a.recorder->prompt_logprobs[i];
      EXPECT_EQ(t.token.id, a.prompt[i + 1]);
      EXPECT_EQ(t.token.logprob, e.prompt_logprobs[i]);
    }
  }
}

TEST(Scheduler, TopLogprobsAreTheLargest) {
  Engine engine(stream(1), small_model(), {kContext, 0, 0});
  Scheduler scheduler(engine, {});
  Asked a = asked_of({1, 2, 3}, 5);
  a.options.logit_bias = {{9, 50.f}};  // log probabilities are the model's own
  a.options.vocab_limit = 100;
  for (const int64_t top : {0, 3, 20}) {
    a.recorder = std::make_shared<Recorder>();
    Request r = request_of(a);
    r.top_logprobs = top;
    scheduler.submit(std::move(r));
    run_all(scheduler);
    ASSERT_EQ(a.recorder->logprobs.size(), 5u);
    Engine other(stream(1), small_model(), {kContext, 0, 0});
    Session session(other, false);
    const Tensor logits = session.feed(a.prompt, 1);
    std::vector<int32_t> order(100);
    for (int32_t id = 0; id < 100; ++id) order[static_cast<size_t>(id)] = id;
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t x, int32_t y) { return logits.f32()[x] > logits.f32()[y]; });
    const auto& first = a.recorder->logprobs[0];
    EXPECT_EQ(first.token.id, 9);
    EXPECT_EQ(first.token.logprob, logprob(other, logits, 9));
    ASSERT_EQ(first.top.size(), static_cast<size_t>(top));
    for (size_t i = 0; i < first.top.size(); ++i) {
      EXPECT_EQ(first.top[i].id, order[i]);
      EXPECT_EQ(first.top[i].logprob, logprob(other, logits, order[i]));
    }
  }
}

TEST(Scheduler, CancelledRequestsEndAtTheNextStep) {
  Rng rng(11);
  Engine engine(stream(2), small_model(), {kContext, 4 * kContext, 0});
  SchedulerOptions options;
  options.max_running = 2;
  Scheduler scheduler(engine, options);
  std::vector<Asked> all;
  for (int i = 0; i < 4; ++i) all.push_back(asked_of(random_ids(rng, 20, 150), 100, static_cast<uint64_t>(i)));
  for (Asked& a : all) submit(scheduler, a);
  for (int i = 0; i < 10; ++i) scheduler.step();
  scheduler.cancel(all[0].id);  // runs
  scheduler.cancel(all[3].id);  // waits
  scheduler.cancel(12345);
  EXPECT_FALSE(all[0].recorder->result);
  const size_t tokens = all[0].recorder->tokens.size();
  scheduler.step();
  for (const size_t i : {0, 3}) {
    ASSERT_TRUE(all[i].recorder->result) << i;
    EXPECT_EQ(all[i].recorder->result->finish, Finish::cancelled);
  }
  EXPECT_EQ(all[0].recorder->tokens.size(), tokens);
  EXPECT_GT(tokens, 0u);
  run_all(scheduler);
  scheduler.cancel(all[1].id);  // is over
  scheduler.step();
  for (const size_t i : {1, 2}) expect_as_generated(small_model(), all[i], kContext);
  EXPECT_EQ(scheduler.stats().finished[static_cast<size_t>(Finish::cancelled)], 2);
  EXPECT_EQ(scheduler.stats().pages_used, 0);
}

TEST(Scheduler, RequestsEndAtTheirDeadline) {
  Engine engine(stream(1), small_model(), {kContext, 0, 0});
  SchedulerOptions options;
  options.max_running = 1;
  Scheduler scheduler(engine, options);
  Asked runs = asked_of({1, 2}, 100), waits = asked_of({1, 2}, 100), in_time = asked_of({1, 3}, 30);
  const auto now = std::chrono::steady_clock::now();
  for (Asked* a : {&runs, &waits, &in_time}) {
    Request r = request_of(*a);
    r.deadline = now + (a == &in_time ? std::chrono::hours(1) : std::chrono::milliseconds(50));
    scheduler.submit(std::move(r));
  }
  scheduler.step();
  EXPECT_EQ(runs.recorder->tokens.size(), 1u);
  std::this_thread::sleep_until(now + std::chrono::milliseconds(60));
  run_all(scheduler);
  EXPECT_EQ(runs.recorder->result->finish, Finish::expired);
  EXPECT_EQ(waits.recorder->result->finish, Finish::expired);
  EXPECT_TRUE(waits.recorder->tokens.empty());
  expect_as_generated(small_model(), in_time, kContext);
}

TEST(Scheduler, AReceiverEndsItsText) {
  Engine engine(stream(1), agreeing(), {kContext, 0, 0});
  for (size_t most = 1; most < 20; ++most) {  // also amid drafts
    Scheduler scheduler(engine, {});
    Asked a = asked_of({5, 6, 7}, 19, 1, .5f);
    a.options.draft = Draft::on;
    a.recorder = std::make_shared<Recorder>(most);
    submit(scheduler, a);
    run_all(scheduler);
    EXPECT_EQ(a.recorder->result->finish, Finish::stopped);
    EXPECT_EQ(a.recorder->tokens.size(), most);
  }
}

TEST(Scheduler, DestructionEndsWhatIsNotOver) {
  Asked runs = asked_of({1, 2}, 100), waits = asked_of({1, 2}, 100), comes = asked_of({1, 3}, 30);
  Engine engine(stream(1), small_model(), {kContext, 0, 0});
  {
    SchedulerOptions options;
    options.max_running = 1;
    Scheduler scheduler(engine, options);
    submit(scheduler, runs);
    submit(scheduler, waits);
    scheduler.step();
    submit(scheduler, comes);
  }
  for (const Asked* a : {&runs, &waits, &comes}) {
    ASSERT_TRUE(a->recorder->result);
    EXPECT_EQ(a->recorder->result->finish, Finish::cancelled);
  }
  EXPECT_EQ(engine.cache().free_pages(), engine.cache().pages());
}

TEST(Scheduler, ClientsTakeTurns) {
  // One client fills the queue; what others ask comes next, not last.
  Rng rng(12);
  Engine engine(stream(1), small_model(), {kContext, 0, 0});
  SchedulerOptions options;
  options.max_running = 1;
  Scheduler scheduler(engine, options);
  std::vector<Asked> many, few;
  for (int i = 0; i < 10; ++i) many.push_back(asked_of(random_ids(rng, 10, 150), 10));
  for (int i = 0; i < 3; ++i) few.push_back(asked_of(random_ids(rng, 10, 150), 10));
  for (Asked& a : many) submit(scheduler, a, "many");
  for (int i = 0; i < 15; ++i) scheduler.step();  // the first is over, the second has begun
  for (Asked& a : few) submit(scheduler, a, "few");
  const auto count = [](const std::vector<Asked>& all) {
    return std::count_if(all.begin(), all.end(), [](const Asked& a) { return a.recorder->result.has_value(); });
  };
  while (count(few) < 3) {
    ASSERT_TRUE(scheduler.step());
    EXPECT_LE(count(many), 2 + count(few) + 1);
  }
  EXPECT_LE(count(many), 5);
  run_all(scheduler);
  EXPECT_EQ(count(many), 10);
}

TEST(Scheduler, LongPromptsDoNotHoldUpOthers) {
  Rng rng(13);
  Engine engine(stream(1), small_model(), {kContext, 8 * kContext, 0});
  SchedulerOptions options;
  options.prompt_tokens = 16;
  Scheduler scheduler(engine, options);
  Asked writes = asked_of(random_ids(rng, 5, 150), 40), is_long = asked_of(random_ids(rng, 500, 150), 5),
        is_short = asked_of(random_ids(rng, 20, 150), 5);
  submit(scheduler, writes);
  scheduler.step();
  submit(scheduler, is_long);
  scheduler.step();
  submit(scheduler, is_short);
  const size_t before = writes.recorder->tokens.size();
  for (int i = 0; i < 10; ++i) scheduler.step();
  EXPECT_EQ(writes.recorder->tokens.size(), before + 10);  // a token in each step
  EXPECT_TRUE(is_short.recorder->result);
  EXPECT_TRUE(is_long.recorder->tokens.empty());
  run_all(scheduler);
  expect_as_generated(small_model(), is_long, kContext);
}

TEST(Scheduler, RefusesWhatItCannotTake) {
  Engine engine(stream(1), small_model(), {100, 0, 0});
  SchedulerOptions options;
  options.max_running = 1;
  options.max_waiting = 3;
  Scheduler scheduler(engine, options);
  const auto status = [&](const Asked& a, auto change) {
    Request r = request_of(a);
    change(r);
    const Submission s = scheduler.submit(std::move(r));
    EXPECT_EQ(s.message.empty(), s.status == Submitted::accepted);
    EXPECT_EQ(s.id != 0, s.status == Submitted::accepted);
    return s.status;
  };
  const auto as_it_is = [](Request&) {};
  const Asked good = asked_of({1, 2}, 3);
  EXPECT_EQ(status(asked_of({}, 3), as_it_is), Submitted::invalid);
  EXPECT_EQ(status(asked_of({1, 150}, 3), as_it_is), Submitted::invalid);
  EXPECT_EQ(status(asked_of({-1}, 3), as_it_is), Submitted::invalid);
  EXPECT_EQ(status(asked_of({1}, -1), as_it_is), Submitted::invalid);
  EXPECT_EQ(status(asked_of(std::vector<int32_t>(101, 1), 3), as_it_is), Submitted::too_long);
  EXPECT_EQ(status(good, [](Request& r) { r.options.rule.temperature = NAN; }), Submitted::invalid);
  EXPECT_EQ(status(good, [](Request& r) { r.options.rule.top_p = 0; }), Submitted::invalid);
  EXPECT_EQ(status(good, [](Request& r) { r.options.rule.frequency_penalty = INFINITY; }), Submitted::invalid);
  EXPECT_EQ(status(good, [](Request& r) { r.options.logit_bias = {{150, 1.f}}; }), Submitted::invalid);
  EXPECT_EQ(status(good, [](Request& r) { r.top_logprobs = 21; }), Submitted::invalid);
  EXPECT_EQ(status(good, [](Request& r) { r.receiver = nullptr; }), Submitted::invalid);
  Asked a = asked_of({1}, 50), b = asked_of({2}, 1), c = b, d = b;
  for (Asked* x : {&b, &c, &d}) x->recorder = std::make_shared<Recorder>();
  submit(scheduler, a);
  scheduler.step();
  for (Asked* x : {&b, &c, &d}) submit(scheduler, *x);
  EXPECT_EQ(status(good, as_it_is), Submitted::queue_full);
  scheduler.step();
  EXPECT_EQ(status(good, as_it_is), Submitted::queue_full);
  scheduler.cancel(a.id);
  scheduler.step();
  EXPECT_EQ(scheduler.stats().waiting, 2);
  EXPECT_EQ(status(good, as_it_is), Submitted::accepted);
  scheduler.close();
  EXPECT_EQ(status(good, as_it_is), Submitted::closed);
  run_all(scheduler);
  EXPECT_TRUE(d.recorder->result);
  options.max_running = 0;
  EXPECT_THROW(Scheduler(engine, options), Error);
}

TEST(Scheduler, ConstraintsAreKept) {
  Rng rng(14);
  for (const Draft draft : {Draft::off, Draft::on}) {
    Engine engine(stream(2), agreeing(), {kContext, 16 * kContext, 0});
    Scheduler scheduler(engine, {});
    std::vector<Asked> all;
    for (int i = 0; i < 12; ++i) {
      Asked a = asked_of(random_ids(rng, 10, 120), 60, static_cast<uint64_t>(i), i % 2 ? 1.f : 0.f);
      a.options.vocab_limit = 125;
      a.options.draft = draft;
      if (i >= 4) a.options.stop_ids = {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13};
      if (i >= 4) a.options.logit_bias = {{2, 4.f}, {3, 4.f}};
      all.push_back(a);
      Request r = request_of(a);
      r.constraint = std::make_unique<Turns>(i == 0 ? 11 : -1, i == 1 ? 7 : -1);
      EXPECT_EQ(scheduler.submit(std::move(r)).status, Submitted::accepted);
      if (i < 3) run_all(scheduler);  // alone: drafts
    }
    run_all(scheduler);
    for (size_t i = 0; i < all.size(); ++i) {
      const Recorder& got = *all[i].recorder;
      ASSERT_TRUE(got.result);
      for (size_t t = 0; t < got.tokens.size(); ++t) EXPECT_EQ(static_cast<size_t>(got.tokens[t]) % 2, t % 2);
      const Finish finish = got.result->finish;
      EXPECT_EQ(finish, i == 0 ? Finish::stop_id : i == 1 ? Finish::failed : i < 4 ? Finish::max_tokens : finish);
      if (i < 2) {
        EXPECT_EQ(got.tokens.size(), i == 0 ? 11u : 7u);
        EXPECT_EQ(got.result->error + (got.result->is_mistake ? "!" : ""), i == 0 ? "" : "no such thing!");
      }
      if (i >= 4 && finish == Finish::stop_id) {
        EXPECT_FALSE(got.tokens.empty());
        EXPECT_EQ(got.tokens.size() % 2, 0u);
      }
    }
    EXPECT_GT(std::count_if(all.begin() + 4, all.end(),
                            [](const Asked& a) { return a.recorder->result->finish == Finish::stop_id; }),
              4);
  }
}

TEST(Scheduler, CountsExperts) {
  Engine engine(stream(1), small_model(), {kContext, 0, 0});
  Scheduler scheduler(engine, {});
  Asked a = asked_of({1, 2, 3, 4, 5}, 20);
  a.options.draft = Draft::off;
  submit(scheduler, a);
  run_all(scheduler);
  const SchedulerStats s = scheduler.stats();
  ASSERT_EQ(s.expert_load.size(), 3u);  // two layers and the MTP module's
  for (size_t l = 0; l < 3; ++l) {
    EXPECT_EQ(s.expert_load[l].layer, static_cast<int64_t>(l + 1));
    ASSERT_EQ(s.expert_load[l].tokens.size(), 6u);
    int64_t sum = 0;
    for (const int64_t n : s.expert_load[l].tokens) sum += n;
    EXPECT_EQ(sum, l < 2 ? 2 * (5 + 19) : 0);
  }
  EXPECT_EQ(s.prompt_tokens, 5);
  EXPECT_EQ(s.text_tokens, 20);
  EXPECT_EQ(s.passes, 20);
  EXPECT_EQ(s.finished[static_cast<size_t>(Finish::max_tokens)], 1);
}

}  // namespace
}  // namespace sluice::test
