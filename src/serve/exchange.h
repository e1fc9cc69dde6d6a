// One request in progress: its texts, which the engine writes, and its reply.
#pragma once
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "serve/api_error.h"
#include "serve/metrics.h"
#include "serve/response_writer.h"
#include "serve/served_model.h"

namespace sluice {

/// Where a request comes from and where its end is reported.
struct ExchangeSetup {
  const ServedModel* model = nullptr;
  std::shared_ptr<HttpReply> reply;
  std::unique_ptr<ResponseWriter> writer;
  HttpResponse head;  // status, content type and headers of a success; its body is empty
  bool stream = false;
  int64_t max_tokens = 0;  // of each text
  Metrics* metrics = nullptr;
  /// Is told the status, or 499 where the client went away, and the counts.
  std::function<void(int status, const Usage&)> done;
};

/// Any function may be called from any thread.
class Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Exchange(ExchangeSetup setup);

  /// Submits one request per text; their receivers are set here. Throws ApiError when the first is not accepted; from
  /// then on the reply is this object's business.
  void start(std::vector<Request> requests);

  /// Sends something that clients ignore where nothing has been sent since `before`. False when all is over.
  bool keep_alive(Clock::time_point before);

 private:
  class Receiver;

  void add_prompt(size_t index, std::span<const TokenLogprobs> logprobs);
  bool add_token(size_t index, const GeneratedToken& token);
  bool write_due();
  void end_text(size_t index, const RequestResult& result);
  void fail_rest(const ApiError& error, size_t num_missing);
  template <class F>
  bool guard(F&& write);
  void complete();
  void begin();
  bool send(const std::string& text);
  void cancel();

  ExchangeSetup setup_;

  std::mutex mutex_;  // guards what follows
  size_t remaining_ = 0;
  bool begun_ = false, over_ = false;
  bool is_due_ = false;  // write_due() is going to be called
  std::optional<ApiError> failure_;
  Clock::time_point last_sent_ = Clock::now();
  std::vector<Clock::time_point> last_token_;  // by text

  std::atomic<bool> gone_ = false;
  std::mutex ids_mutex_;  // apart, since cancel() may be called with mutex_ held
  bool cancelled_ = false;
  std::vector<uint64_t> ids_;
};

}  // namespace sluice
