// A model that is none: one token per byte, some special tokens, and texts that tests make up.
#pragma once
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "serve/service.h"
#include "tokenizer/chat_template.h"

namespace sluice::test {

constexpr int32_t kBos = 256, kEos = 257;
constexpr int64_t kContext = 4000;

inline TokenizerConfig tokenizer_config(bool is_chat = true) {
  TokenizerConfig config;
  config.bos_token = "<｜begin▁of▁sentence｜>";
  config.eos_token = "<｜end▁of▁sentence｜>";
  config.add_bos_token = true;
  if (is_chat) config.chat_template = std::string(chat_template_jinja());
  return config;
}

inline Tokenizer make_tokenizer() {
  TokenizerFile file;
  // GPT-2's byte symbols: printable bytes stand for themselves, the others for U+0100 and on.
  int32_t next = 256;
  for (int32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    const int32_t c = printable ? b : next++;
    std::string symbol(1, static_cast<char>(c));
    if (c >= 0x80) symbol = {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 0x3F))};
    file.vocab.emplace_back(symbol, b);
  }
  for (const char* text :
       {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>",
        "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜tool▁outputs▁begin｜>",
        "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"}) {
    AddedToken token;
    token.id = 256 + static_cast<int32_t>(file.added_tokens.size());
    token.content = text;
    token.special = token.content != "<think>" && token.content != "</think>";
    file.added_tokens.push_back(token);
  }
  PreTokenizerStage stage;
  stage.kind = PreTokenizerStage::Kind::byte_level;
  file.stages.push_back(stage);
  return Tokenizer(file, tokenizer_config());
}

inline const Tokenizer& tokenizer() {
  static const Tokenizer t = make_tokenizer();
  return t;
}

inline std::vector<int32_t> ids_of(std::string_view text) {
  std::vector<int32_t> ids;
  tokenizer().encode(text, true, ids);
  return ids;
}

/// Writes the same text for every request, a token at a time, each after `pause`. One thread, the newest request last.
class FakeTexts final : public TextSource {
 public:
  std::string text = "hello";
  std::chrono::milliseconds pause{0};
  size_t most_waiting = 100;
  bool held = false;                         // nothing is written until release()
  Finish ending = Finish::stop_id;           // of a text that is written in full
  std::string mistake{};                     // why, where that is failed
  std::chrono::milliseconds cancel_time{0};  // that cancel() takes, while the text ends already

  FakeTexts() : thread_([this] { run(); }) {}
  ~FakeTexts() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }
  Submission submit(Request request) override {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() >= most_waiting) return {Submitted::queue_full, 0, "the queue is full"};
    requests.push_back(
        {request.prompt, request.options, request.client, request.constraint != nullptr, request.deadline});
    waiting_.push_back({++last_id_, std::move(request)});
    wake_.notify_all();
    return {Submitted::accepted, last_id_, ""};
  }
  void cancel(uint64_t id) override {
    {
      const std::lock_guard lock(mutex_);
      cancelled_.push_back(id);
      ++cancels;
      wake_.notify_all();
    }
    std::this_thread::sleep_for(cancel_time);
  }
  SchedulerStats stats() const override {
    SchedulerStats s;
    s.running = 1, s.pages = 10, s.pages_used = 5, s.pages_idle = 2, s.cache_queried = 100, s.cache_hit = 40;
    s.expert_load = {{1, {3, 4}}, {2, {5, 6}}};
    return s;
  }
  void release() {
    const std::lock_guard lock(mutex_);
    held = false;
    wake_.notify_all();
  }

  struct Seen {
    std::vector<int32_t> prompt;
    GenerateOptions options;
    std::string client;
    bool constrained = false;
    std::optional<std::chrono::steady_clock::time_point> deadline;
  };
  std::vector<Seen> requests;  // look at them when they are over
  std::atomic<int> cancels = 0;

 private:
  struct Waiting {
    uint64_t id;
    Request request;
  };

  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock,
                 [this] { return stopping_ || (!waiting_.empty() && (!held || is_cancelled(waiting_.front().id))); });
      if (waiting_.empty()) return;
      Waiting w = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      write(w);
      lock.lock();
    }
  }
  void write(Waiting& w) {
    Request& r = w.request;
    const std::vector<int32_t> ids = ids_of(text);
    RequestResult result;
    result.prompt_tokens = static_cast<int64_t>(r.prompt.size());
    result.cached_tokens = result.prompt_tokens / 2;
    result.finish = ending;
    result.error = mistake;
    result.is_mistake = !mistake.empty();
    if (r.prompt_logprobs) {
      std::vector<TokenLogprobs> of_prompt;
      for (size_t i = 1; i < r.prompt.size(); ++i) of_prompt.push_back(logprobs(r.prompt[i]));
      r.receiver->prompt(of_prompt);
    }
    for (const int32_t id : ids) {
      if (result.tokens == r.options.max_tokens) result.finish = Finish::max_tokens;
      if (done(w.id)) result.finish = Finish::cancelled;
      if (result.finish != ending) break;
      const TokenLogprobs l = logprobs(id);
      if (!r.receiver->token({id, result.tokens++, r.top_logprobs ? &l : nullptr})) {
        result.finish = Finish::stopped;
        break;
      }
      std::this_thread::sleep_for(pause);
    }
    result.first_token_seconds = 0.25, result.seconds = 1;
    r.receiver->finished(result);
  }
  static TokenLogprobs logprobs(int32_t id) { return {{id, -0.5f}, {{id, -0.5f}, {id + 1, -1.5f}}}; }
  bool is_cancelled(uint64_t id) const { return std::count(cancelled_.begin(), cancelled_.end(), id) > 0; }
  bool done(uint64_t id) {
    const std::lock_guard lock(mutex_);
    return stopping_ || is_cancelled(id);
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Waiting> waiting_;
  std::vector<uint64_t> cancelled_;
  uint64_t last_id_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

inline ServedModel fake_model(TextSource& texts, bool is_chat = true) {
  GenerateOptions defaults;
  defaults.max_tokens = kContext;
  defaults.vocab_limit = tokenizer().vocab_size();
  defaults.stop_ids = {kEos};
  return {{"fake", "other"},
          tokenizer(),
          ChatFormat(tokenizer_config(is_chat)),
          std::make_shared<const TokenTrie>(tokenizer()),
          kContext,
          defaults,
          1700000000,
          &texts};
}

/// What a request got.
class RecordingReply final : public HttpReply {
 public:
  void send(HttpResponse r) override {
    const std::lock_guard lock(mutex_);
    response_ = std::move(r);
    ended_ = true;
    changed_.notify_all();
  }
  void begin(HttpResponse head) override {
    const std::lock_guard lock(mutex_);
    response_ = std::move(head);
  }
  bool write(std::string_view piece) override {
    const std::lock_guard lock(mutex_);
    response_.body += piece;
    changed_.notify_all();
    return true;
  }
  void when_due(std::function<bool()> write) override {
    while (write()) {
    }
  }
  void end() override {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }
  void on_gone(std::function<void()>) override {}

  /// Waits for the end.
  HttpResponse wait() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(10), [this] { return ended_; }));
    return response_;
  }
  /// Waits for some of the body.
  bool wait_for(std::string_view text) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10),
                             [&] { return response_.body.find(text) != std::string::npos; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  HttpResponse response_;
  bool ended_ = false;
};

inline HttpRequest http_request(const std::string& method, const std::string& path, const std::string& body = "") {
  HttpRequest r;
  r.method = method;
  r.path = path;
  r.body = body;
  return r;
}

/// The events of a stream, parsed; [DONE] must be the last and is left out.
inline std::vector<Json> events_of(const std::string& body) {
  std::vector<Json> events;
  bool done = false;
  for (size_t at = 0; at < body.size();) {
    const size_t end = body.find("\n\n", at);
    EXPECT_NE(end, std::string::npos) << body;
    if (end == std::string::npos) break;
    const std::string event = body.substr(at, end - at);
    at = end + 2;
    if (event == ": keep-alive") continue;
    EXPECT_FALSE(done) << body;
    EXPECT_TRUE(event.starts_with("data: ")) << event;
    done = event == "data: [DONE]";
    if (!done) events.push_back(Json::parse(event.substr(6)));
  }
  EXPECT_TRUE(done) << body;
  return events;
}

}  // namespace sluice::test
