#include "serve/service.h"

#include <algorithm>
#include <atomic>
#include <random>

#include "base/error.h"
#include "base/rng.h"
#include "serve/api_key.h"
#include "serve/browser_guard.h"
#include "serve/page.h"
#include "serve/service_call.h"

namespace sluice {
namespace {

constexpr std::string_view kModelPath = "/v1/models/";
constexpr size_t kMostIdBytes = 128;

/// A client's own id if it is harmless, else a new one.
std::string request_id(std::string_view wanted) {
  const auto harmless = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_'; };
  if (!wanted.empty() && wanted.size() <= kMostIdBytes && std::all_of(wanted.begin(), wanted.end(), harmless))
    return std::string(wanted);
  static const uint64_t start = std::random_device()() | static_cast<uint64_t>(std::random_device()()) << 32;
  static std::atomic<uint64_t> count = 0;
  return fmt::format("{:016x}", mix64(start + count++));
}

double seconds_since(std::chrono::steady_clock::time_point t) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count();
}

int64_t unix_time() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

/// All addresses but those of the page.
struct Routes {
  static constexpr Service::Route kAll[] = {
      {"GET", "/health", &Service::health, false},
      {"GET", "/metrics", &Service::metrics},
      {"GET", "/v1/models", &Service::models},
      {"GET", "/models", &Service::models, true, true},
      {"POST", "/v1/chat/completions", &Service::chat_completions},
      {"POST", "/chat/completions", &Service::chat_completions, true, true},
      {"POST", "/beta/chat/completions", &Service::chat_completions, true, true},
      {"POST", "/v1/completions", &Service::completions},
      {"POST", "/completions", &Service::completions, true, true},
      {"POST", "/beta/completions", &Service::completions, true, true},
      {"POST", "/tokenize", &Service::tokenize},
      {"POST", "/detokenize", &Service::detokenize},
      {"POST", "/v1/responses", &Service::elsewhere, false},
      {"POST", "/v1/messages", &Service::elsewhere, false},
  };
  static constexpr Service::Route kModel = {"GET", kModelPath, &Service::model};
  static constexpr Service::Route kPage = {"GET", "/", &Service::page, false};
  static constexpr Service::Route kPreflight = {"OPTIONS", "*", &Service::preflight, false};
};

Service::Service(ServiceOptions options) : options_(std::move(options)), ticker_([this] { tick(); }) {}

Service::~Service() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  ticker_.join();
}

void Service::set_model(const ServedModel& model) { model_ = &model; }

void Service::handle(HttpRequest request, std::shared_ptr<HttpReply> reply) {
  Call call{std::move(request), std::move(reply)};
  call.id = request_id(call.request.header("x-request-id"));
  call.headers.emplace_back("x-request-id", call.id);
  if (!options_.cors_origin.empty()) {
    call.headers.emplace_back("Access-Control-Allow-Origin", options_.cors_origin);
    call.headers.emplace_back("Access-Control-Expose-Headers", "x-request-id");
  }
  bool deepseek = false;
  ApiError error(500, "server_error", "the server failed");
  try {
    const Route& route = find_route(call);
    deepseek = route.deepseek;
    if (route.needs_key) check_client(call);
    return (this->*route.endpoint)(call);
  } catch (const ApiError& e) {
    error = e;
  } catch (const Error& e) {
    error = invalid_request(e.what());
  } catch (const std::exception& e) {
    options_.log(fmt::format("error id={}: {}", call.id, e.what()));
  }
  if (deepseek && error.status == 400 && !error.param.empty() && error.code.empty()) error.status = 422;
  send(call, error_response(error));
  log_line(call, error.status, error.code.empty() ? error.type : error.code);
}

HttpResponse Service::refuse(int status, std::string_view reason) {
  metrics_.response(status);
  options_.log(fmt::format("{} refused: {}", status, reason));
  return plain_error(status, reason);
}

const Service::Route& Service::find_route(const Call& call) const {
  const HttpRequest& r = call.request;
  if (r.method == "OPTIONS" && !options_.cors_origin.empty()) return Routes::kPreflight;
  const auto known = std::find_if(std::begin(Routes::kAll), std::end(Routes::kAll),
                                  [&](const Route& route) { return route.path == r.path; });
  const Route* route = known != std::end(Routes::kAll)                    ? known
                       : find_page_file(r.path)                           ? &Routes::kPage
                       : std::string_view(r.path).starts_with(kModelPath) ? &Routes::kModel
                                                                          : nullptr;
  if (!route)
    throw ApiError(404, "invalid_request_error", fmt::format("Unknown request URL: {} {}", r.method, r.path), "",
                   "unknown_url");
  const bool head = r.method == "HEAD" && route->method == "GET";
  if (r.method != route->method && !head)
    throw ApiError(405, "invalid_request_error",
                   fmt::format("Not allowed to {} on {}, expected {}", r.method, r.path, route->method), "",
                   "method_not_supported");
  return *route;
}

/// Who has no key to show must at least be no page of another site.
void Service::check_client(const Call& call) const {
  if (options_.api_keys.empty()) return check_browser(call.request, options_.cors_origin);
  if (has_api_key(call.request.header("authorization"), options_.api_keys)) return;
  throw ApiError(401, "authentication_error",
                 "Incorrect API key provided: expected the header `Authorization: Bearer KEY`", "", "invalid_api_key");
}

const ServedModel& Service::need_model() const {
  const ServedModel* model = model_;
  if (!model) throw ApiError(503, "unavailable_error", "Loading model", "", "model_loading");
  return *model;
}

void Service::send(const Call& call, HttpResponse response) {
  metrics_.response(response.status);
  response.headers.insert(response.headers.end(), call.headers.begin(), call.headers.end());
  call.reply->send(std::move(response));
}

void Service::log_line(const Call& call, int status, const std::string& details) {
  options_.log(fmt::format("{} {} {} {:.3f}s id={} {}", status, call.request.method, json_excerpt(call.request.path),
                           seconds_since(call.begin), call.id, details));
}

void Service::chat_completions(const Call& call) {
  const ServedModel& model = need_model();
  run(call, model, prepare_chat(parse_body(call.request.body), model, grammars_, "chatcmpl-" + call.id, unix_time()));
}

void Service::completions(const Call& call) {
  const ServedModel& model = need_model();
  run(call, model, prepare_completion(parse_body(call.request.body), model, "cmpl-" + call.id, unix_time()));
}

void Service::run(const Call& call, const ServedModel& model, PreparedTexts texts) {
  ExchangeSetup setup;
  setup.model = &model;
  setup.reply = call.reply;
  setup.writer = std::move(texts.writer);
  setup.head = {200, texts.stream ? kEventStreamType : kJsonType, "", call.headers};
  if (texts.stream) setup.head.headers.emplace_back("Cache-Control", "no-cache");
  if (texts.stream) setup.head.headers.emplace_back("X-Accel-Buffering", "no");  // nginx passes events on at once
  setup.stream = texts.stream;
  setup.max_tokens = texts.max_tokens;
  setup.metrics = &metrics_;
  setup.done = [this, about = Call{{call.request.method, call.request.path, {}, {}}, nullptr, call.id, {}, call.begin},
                stream = texts.stream, num = texts.requests.size()](int status, const Usage& u) {
    metrics_.response(status);
    log_line(about, status,
             fmt::format("{}texts={} prompt={} cached={} tokens={} first={:.3f}s", stream ? "stream " : "", num,
                         u.prompt, u.cached, u.completion, u.prompt_seconds));
  };
  const auto exchange = std::make_shared<Exchange>(std::move(setup));
  exchange->start(std::move(texts.requests));
  const std::lock_guard lock(mutex_);
  exchanges_.push_back(exchange);
}

/// Until the end: lets clients that wait know that they are not forgotten.
void Service::tick() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, options_.keep_alive / 2, [this] { return stopping_; })) {
    std::vector<std::weak_ptr<Exchange>> all = std::exchange(exchanges_, {});
    lock.unlock();
    const auto before = std::chrono::steady_clock::now() - options_.keep_alive / 2;
    std::erase_if(all, [&](const std::weak_ptr<Exchange>& weak) {
      const auto exchange = weak.lock();
      return !exchange || !exchange->keep_alive(before);
    });
    lock.lock();
    exchanges_.insert(exchanges_.end(), all.begin(), all.end());
  }
}

}  // namespace sluice
