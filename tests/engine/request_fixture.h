// Requests for tests of the scheduler, what their receivers recorded, and what generate() writes for the same options.
#pragma once
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/rng.h"
#include "engine/scheduler.h"
#include "fixture.h"
#include "model/tiny_model.h"

namespace sluice::test {

/// A folder for a test, gone with it.
class TestFolder {
 public:
  TestFolder() {
    std::string name = (fs::temp_directory_path() / "sluice_prefix_XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TestFolder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }
  std::vector<fs::path> files() const {
    std::vector<fs::path> files;
    for (const auto& f : fs::directory_iterator(path_)) files.push_back(f.path());
    return files;
  }

 private:
  fs::path path_;
};

/// Records all it receives; ends the text after `most` tokens.
class Recorder : public RequestReceiver {
 public:
  explicit Recorder(size_t most = SIZE_MAX) : most_(most) {}

  void prompt(std::span<const TokenLogprobs> more) override {
    EXPECT_TRUE(tokens.empty() && !result);
    prompt_logprobs.insert(prompt_logprobs.end(), more.begin(), more.end());
  }
  bool token(const GeneratedToken& t) override {
    EXPECT_FALSE(result);
    EXPECT_EQ(t.index, static_cast<int64_t>(tokens.size()));
    tokens.push_back(t.id);
    if (t.logprobs) logprobs.push_back(*t.logprobs);
    return tokens.size() < most_;
  }
  void finished(const RequestResult& r) override {
    EXPECT_FALSE(result);
    result = r;
    EXPECT_EQ(r.tokens, static_cast<int64_t>(tokens.size()));
  }

  std::vector<int32_t> tokens;
  std::vector<TokenLogprobs> logprobs, prompt_logprobs;
  std::optional<RequestResult> result;

 private:
  size_t most_;
};

struct Asked {
  std::vector<int32_t> prompt;
  GenerateOptions options;
  std::shared_ptr<Recorder> recorder = std::make_shared<Recorder>();
  uint64_t id = 0;
};

inline std::vector<int32_t> random_ids(Rng& rng, int64_t n, int64_t vocab) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocab))));
  return ids;
}

/// A request as asked, with log probabilities, so that a difference in the last bits shows.
inline Request request_of(const Asked& asked, const std::string& client = "") {
  Request r;
  r.prompt = asked.prompt;
  r.options = asked.options;
  r.top_logprobs = 2;
  r.client = client;
  r.receiver = asked.recorder;
  return r;
}

inline void submit(Scheduler& scheduler, Asked& asked, const std::string& client = "") {
  const Submission s = scheduler.submit(request_of(asked, client));
  EXPECT_EQ(s.status, Submitted::accepted) << s.message;
  asked.id = s.id;
}

inline void run_all(Scheduler& scheduler) {
  while (scheduler.step()) {
  }
}

/// log softmax of a row of logits at `id`, as the scheduler computes it.
inline float logprob(Engine& engine, const Tensor& logits, int32_t id) {
  float total = 0;
  log_sum_exp(engine.stream(), Tensor(&total, {1}), logits);
  return logits.f32()[id] - total;
}

/// What generate() writes, in an engine of its own.
struct Expected {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs, prompt_logprobs;
  Finish finish;
};

inline Expected expected_of(const Model& model, const Asked& asked, int64_t context) {
  Engine engine(stream(1), model, {context, 0, 0});
  Session session(engine, false);
  GenerateOptions options = asked.options;
  options.draft = Draft::off;
  Expected e;
  e.finish = generate(session, asked.prompt, options, [&](int32_t id) {
               e.tokens.push_back(id);
               return true;
             }).finish;
  session.truncate(0);
  const int64_t n = static_cast<int64_t>(asked.prompt.size());
  const Tensor logits = session.feed(asked.prompt, n);
  for (int64_t i = 0; i + 1 < n; ++i)
    e.prompt_logprobs.push_back(logprob(engine, logits.slice_rows(i, 1), asked.prompt[static_cast<size_t>(i + 1)]));
  Tensor last = logits.slice_rows(n - 1, 1);
  for (const int32_t id : e.tokens) {
    e.logprobs.push_back(logprob(engine, last, id));
    if (session.room() > 0) last = session.feed(std::span(&id, 1), 1, RowKind::text);
  }
  return e;
}

/// Expects tokens, bits of log probabilities and the reason of the end to be those of generate().
inline void expect_as_generated(const Model& model, const Asked& asked, int64_t context) {
  const Recorder& got = *asked.recorder;
  ASSERT_TRUE(got.result);
  const Expected e = expected_of(model, asked, context);
  EXPECT_EQ(got.tokens, e.tokens);
  EXPECT_EQ(got.result->finish, e.finish) << got.result->error;
  std::vector<float> logprobs;
  for (const TokenLogprobs& t : got.logprobs) logprobs.push_back(t.token.logprob);
  EXPECT_TRUE(same_bits(logprobs, e.logprobs));
}

/// A model of few parameters whose texts vary, with an MTP module.
inline const Model& small_model() {
  static const Model m = [] {
    HfConfig c = tiny_config();
    c.vocab_size = 150;
    return random_model(stream(1), c, 1);
  }();
  return m;
}

inline constexpr int64_t kContext = 512;

inline Asked asked_of(std::vector<int32_t> prompt, int64_t max_tokens, uint64_t seed = 0, float temperature = 1) {
  Asked a;
  a.prompt = std::move(prompt);
  a.options.max_tokens = max_tokens;
  a.options.seed = seed;
  a.options.rule.temperature = temperature;
  return a;
}

inline Asked random_request(Rng& rng, int64_t most_prompt, int64_t most_tokens) {
  Asked a = asked_of(random_ids(rng, 1 + static_cast<int64_t>(rng.below(static_cast<uint64_t>(most_prompt))), 150),
                     1 + static_cast<int64_t>(rng.below(static_cast<uint64_t>(most_tokens))), rng.next());
  a.options.rule.temperature = static_cast<float>(rng.below(3)) * .5f;
  if (rng.below(2)) a.options.rule.top_p = .9f;
  if (rng.below(3) == 0) a.options.rule.frequency_penalty = .5f;
  if (rng.below(3) == 0) a.options.rule.repetition_penalty = 1.3f;
  if (rng.below(3) == 0) a.options.logit_bias = {{5, 2.f}, {7, -3.f}};
  if (rng.below(3) == 0) a.options.stop_ids = {3, 4};
  if (rng.below(3) == 0) a.options.vocab_limit = 140;
  return a;
}

inline void expect_all_as_generated(const Model& model, const std::vector<Asked>& all, int64_t context = kContext) {
  for (size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE(i);
    expect_as_generated(model, all[i], context);
  }
}

/// Even and odd ids by turns; may end after an odd one. After `dead_end` tokens nothing is allowed; throws when asked
/// for the token `bad`.
class Turns : public TokenConstraint {
 public:
  Turns(int64_t dead_end, int64_t bad) : dead_end_(dead_end), bad_(bad) {}
  void mask(std::span<uint64_t> allowed) override {
    if (tokens_ == bad_) fail("no such thing");
    std::fill(allowed.begin(), allowed.end(),
              tokens_ == dead_end_ ? 0
              : tokens_ % 2        ? 0xaaaaaaaaaaaaaaaa
                                   : 0x5555555555555555);
  }
  void accept(int32_t id) override {
    EXPECT_EQ(id % 2, tokens_ % 2);
    ++tokens_;
  }
  bool can_end() const override { return tokens_ > 0 && tokens_ % 2 == 0; }

 private:
  int64_t tokens_ = 0, dead_end_, bad_;
};

}  // namespace sluice::test
