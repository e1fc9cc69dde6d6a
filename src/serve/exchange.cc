#include "serve/exchange.h"

#include "serve/json_text.h"
#include "serve/text_endpoints.h"

namespace sluice {
namespace {

constexpr int kClientGone = 499;

ApiError refusal(const Submission& s) {
  switch (s.status) {
    case Submitted::too_long:
      return {400, "invalid_request_error", s.message, "messages", "context_length_exceeded"};
    case Submitted::queue_full:
      return {429, "rate_limit_error", s.message, "", "rate_limit_exceeded"};
    case Submitted::closed:
      return {503, "unavailable_error", "the server is shutting down"};
    default:
      return {400, "invalid_request_error", s.message};
  }
}

}  // namespace

/// Passes what one text yields on to the exchange.
class Exchange::Receiver final : public RequestReceiver {
 public:
  Receiver(std::shared_ptr<Exchange> exchange, size_t index) : exchange_(std::move(exchange)), index_(index) {}
  void prompt(std::span<const TokenLogprobs> logprobs) override { exchange_->add_prompt(index_, logprobs); }
  bool token(const GeneratedToken& token) override { return exchange_->add_token(index_, token); }
  void finished(const RequestResult& result) override { exchange_->end_text(index_, result); }

 private:
  const std::shared_ptr<Exchange> exchange_;
  const size_t index_;
};

Exchange::Exchange(ExchangeSetup setup) : setup_(std::move(setup)) {}

void Exchange::start(std::vector<Request> requests) {
  remaining_ = requests.size();
  last_token_.resize(requests.size());
  setup_.reply->on_gone([weak = weak_from_this()] {
    if (const auto self = weak.lock()) {
      self->gone_ = true;
      self->cancel();
    }
  });
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].receiver = std::make_shared<Receiver>(shared_from_this(), i);
    const Submission s = setup_.model->texts->submit(std::move(requests[i]));
    if (s.status != Submitted::accepted) {
      if (i == 0) throw refusal(s);
      return fail_rest(refusal(s), requests.size() - i);
    }
    bool cancelled;
    {
      const std::lock_guard lock(ids_mutex_);
      ids_.push_back(s.id);
      cancelled = cancelled_;
    }
    if (cancelled) setup_.model->texts->cancel(s.id);
  }
  const std::lock_guard lock(mutex_);
  if (setup_.stream && !over_) begin();
}

/// Some texts were accepted, `num_missing` were not.
void Exchange::fail_rest(const ApiError& error, size_t num_missing) {
  const std::lock_guard lock(mutex_);
  if (!failure_) failure_ = error;
  cancel();  // after that: the texts that end by it are not what failed
  remaining_ -= num_missing;
  if (remaining_ == 0) complete();
}

void Exchange::add_prompt(size_t index, std::span<const TokenLogprobs> logprobs) {
  if (gone_) return;
  const std::lock_guard lock(mutex_);
  std::string out;
  setup_.writer->prompt(index, logprobs, out);
  send(out);
}

bool Exchange::add_token(size_t index, const GeneratedToken& token) {
  if (gone_) return false;
  std::shared_ptr<HttpReply> asked;
  bool more;
  {
    const std::lock_guard lock(mutex_);
    const Clock::time_point now = Clock::now();
    if (token.index > 0) setup_.metrics->token_gap(std::chrono::duration<double>(now - last_token_[index]).count());
    last_token_[index] = now;
    more = setup_.writer->token(index, token);
    if (setup_.stream && !std::exchange(is_due_, true)) asked = setup_.reply;
  }
  if (asked)
    asked->when_due([weak = weak_from_this()] {
      const auto self = weak.lock();
      return self && self->write_due();
    });
  return more && !gone_;
}

/// Sends what the tokens since the last time have given. Whether there was any, and there may be more.
bool Exchange::write_due() {
  const std::lock_guard lock(mutex_);
  if (over_) return false;
  std::string out;
  if (!guard([&] { setup_.writer->take(out); })) {
    cancel();
    return false;
  }
  is_due_ = !out.empty();
  return send(out) && is_due_;
}

void Exchange::end_text(size_t index, const RequestResult& result) {
  const std::lock_guard lock(mutex_);
  const bool failed = result.finish == Finish::failed, late = result.finish == Finish::expired;
  const bool cut = result.finish == Finish::cancelled;
  if (failed && !failure_)
    failure_ = result.is_mistake ? invalid_param(result.error) : ApiError(500, "server_error", result.error);
  if (late && !failure_)
    failure_ =
        ApiError(503, "unavailable_error",
                 fmt::format("the text was not complete within {} minutes", kMostTextTime.count()), "", "timeout");
  if (cut && !failure_) failure_ = ApiError(503, "unavailable_error", "the server is shutting down");
  std::string out;
  const bool is_written = guard([&] { setup_.writer->finished(index, result, out); });
  const bool cut_off = result.finish == Finish::max_tokens || result.finish == Finish::context_full;
  setup_.metrics->finished(result,
                           failed || !is_written  ? EndReason::error
                           : gone_ || cut || late ? EndReason::abort
                           : cut_off              ? EndReason::length
                                                  : EndReason::stop,
                           setup_.max_tokens);
  if (failure_) {
    cancel();
  } else {
    send(out);
  }
  if (--remaining_ == 0) complete();
}

/// Calls `write`. False where it throws: the client is told why, unless something else has failed before. A writer's
/// exception must not keep the other texts, or the end of the response, from being counted.
template <class F>
bool Exchange::guard(F&& write) {
  try {
    write();
    return true;
  } catch (const Error& e) {
    if (!failure_) failure_ = invalid_param(e.what());
  } catch (const std::exception& e) {
    if (!failure_) failure_ = ApiError(500, "server_error", e.what());
  }
  return false;
}

void Exchange::complete() {
  over_ = true;
  std::string out;
  if (!failure_) {
    guard([&] {
      setup_.writer->end(out);
      if (!setup_.stream) out = setup_.writer->body();
    });
  }
  if (failure_) out = setup_.stream ? "data: " + error_body(*failure_) + "\n\n" + kDoneEvent : error_body(*failure_);
  // Before the client knows, so that what it asks next finds it counted.
  setup_.done(gone_ ? kClientGone : failure_ ? failure_->status : setup_.head.status, setup_.writer->usage());
  if (!begun_ && (failure_ || !setup_.stream)) {
    HttpResponse whole = failure_ ? error_response(*failure_) : setup_.head;
    whole.headers = setup_.head.headers;
    if (!failure_) whole.body = std::move(out);
    setup_.reply->send(std::move(whole));
  } else {
    begin();
    setup_.reply->write(out);
    setup_.reply->end();
  }
  setup_.reply.reset();
}

void Exchange::begin() {
  if (std::exchange(begun_, true)) return;
  setup_.reply->begin(setup_.head);
  last_sent_ = Clock::now();
}

/// False when nobody will get it.
bool Exchange::send(const std::string& text) {
  if (text.empty()) return true;
  begin();
  last_sent_ = Clock::now();
  if (setup_.reply->write(text)) return true;
  gone_ = true;
  return false;
}

bool Exchange::keep_alive(Clock::time_point before) {
  const std::lock_guard lock(mutex_);
  if (over_) return false;
  if (last_sent_ < before) send(setup_.stream ? ": keep-alive\n\n" : "\n");
  return true;
}

void Exchange::cancel() {
  std::vector<uint64_t> ids;
  {
    const std::lock_guard lock(ids_mutex_);
    cancelled_ = true;
    ids = ids_;
  }
  for (const uint64_t id : ids) setup_.model->texts->cancel(id);
}

}  // namespace sluice
