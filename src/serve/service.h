// What the server answers: which address is what, who may ask, and how requests are logged. Knows no sockets.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "serve/exchange.h"
#include "serve/text_endpoints.h"

namespace sluice {

struct ServiceOptions {
  std::vector<std::string> api_keys{};  // one of these is needed; empty: none
  std::string cors_origin{};            // value of Access-Control-Allow-Origin; empty: no CORS
  /// A client that waits for its answer hears something at least this often.
  std::chrono::milliseconds keep_alive{10'000};
  /// Receives one line per request, without prompts, texts and keys.
  std::function<void(std::string_view)> log{};
  std::function<size_t()> connections{};  // open now, for /metrics; or empty
};

/// Every function may be called from any thread.
class Service {
 public:
  /// Without a model: requests that need one get status 503.
  explicit Service(ServiceOptions options);
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  /// Once: `model` must outlive the last reply.
  void set_model(const ServedModel& model);
  /// Answers a request, now or, where the engine has to work for it, later.
  void handle(HttpRequest request, std::shared_ptr<HttpReply> reply);
  /// The response to a request that was refused before it was one: counted and logged as others are.
  HttpResponse refuse(int status, std::string_view reason);

 private:
  struct Call;
  struct Route;
  friend struct Routes;

  const Route& find_route(const Call& call) const;
  void check_client(const Call& call) const;
  const ServedModel& need_model() const;
  void send(const Call& call, HttpResponse response);
  void log_line(const Call& call, int status, const std::string& details);

  void health(const Call& call);
  void models(const Call& call);
  void model(const Call& call);
  void metrics(const Call& call);
  void chat_completions(const Call& call);
  void completions(const Call& call);
  void tokenize(const Call& call);
  void detokenize(const Call& call);
  void elsewhere(const Call& call);
  void page(const Call& call);
  void preflight(const Call& call);

  void run(const Call& call, const ServedModel& model, PreparedTexts texts);
  void tick();

  const ServiceOptions options_;
  Metrics metrics_;
  GrammarCache grammars_;

  std::atomic<const ServedModel*> model_ = nullptr;

  std::mutex mutex_;  // guards what follows
  std::vector<std::weak_ptr<Exchange>> exchanges_;
  bool stopping_ = false;
  std::condition_variable wake_;
  std::thread ticker_;
};

}  // namespace sluice
