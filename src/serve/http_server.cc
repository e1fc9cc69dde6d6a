#include "serve/http_server.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <optional>
#include <thread>
#include <unordered_set>

#include "base/error.h"
#include "serve/http_connection.h"

namespace sluice {
namespace {

using asio::ip::tcp;
using boost::system::error_code;

/// Time to wait when the system has no more file descriptors.
constexpr std::chrono::milliseconds kAcceptPause{100};
constexpr int kIoThreads = 1;

}  // namespace

/// Shared by the server, its connections and their replies.
class HttpServer::Core final : public ConnectionOwner, public std::enable_shared_from_this<Core> {
 public:
  Core(HttpOptions options, HttpHandler handler)
      : options_(std::move(options)),
        handler_(std::move(handler)),
        io_(kIoThreads),
        acceptor_(asio::make_strand(io_)),
        pause_(acceptor_.get_executor()),
        work_(asio::make_work_guard(io_)),
        workers_(static_cast<size_t>(options_.workers)) {}

  const HttpOptions& options() const override { return options_; }
  bool draining() const override { return draining_; }

  void listen() {
    const std::string where = fmt::format("{}:{}", options_.host, options_.port);
    error_code error;
    const auto address = asio::ip::make_address(options_.host == "localhost" ? "127.0.0.1" : options_.host, error);
    if (error) fail("--host: expected an IP address or localhost, found {}", options_.host);
    const tcp::endpoint endpoint(address, options_.port);
    acceptor_.open(endpoint.protocol());
    acceptor_.set_option(tcp::acceptor::reuse_address(true));
    acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) fail("{}: cannot listen: {}", where, error.message());
    port_ = acceptor_.local_endpoint().port();
    asio::post(acceptor_.get_executor(), [this] { accept(); });
    for (int i = 0; i < kIoThreads; ++i) threads_.emplace_back([this] { io_.run(); });
  }

  uint16_t port() const { return port_; }

  size_t connections() const {
    const std::lock_guard lock(mutex_);
    return connections_.size();
  }

  /// What is posted does not hold this: it may be posted when the threads have ended, and wait forever.
  void drain() {
    draining_ = true;
    asio::post(acceptor_.get_executor(), [this] { stop_accepting(); });
    for_all(&Connection::drain);
  }

  void abort() {
    drain();
    for_all(&Connection::abort);
  }

  void join() {
    for (std::thread& t : threads_)
      if (t.joinable()) t.join();
    workers_.join();
  }

  bool reserve(size_t bytes) override {
    if (body_bytes_.fetch_add(bytes) + bytes <= options_.limits.all_body_bytes) return true;
    body_bytes_ -= bytes;
    return false;
  }
  void release(size_t bytes) override { body_bytes_ -= bytes; }

  void handle(HttpRequest request, std::shared_ptr<HttpReply> reply) override {
    asio::post(workers_, [self = shared_from_this(), request = std::move(request), reply = std::move(reply)]() mutable {
      try {
        self->handler_(std::move(request), std::move(reply));
      } catch (const std::exception& e) {  // the reply that is dropped becomes status 500
        fmt::print(stderr, "serve: {}\n", e.what());
      }
    });
  }

  void closed(Connection* connection) override {
    const std::lock_guard lock(mutex_);
    connections_.erase(connection);
    release_if_done();
  }

 private:
  void accept() {
    acceptor_.async_accept(asio::make_strand(io_), [this](error_code error, tcp::socket socket) {
      if (draining_ || error == asio::error::operation_aborted) return;
      if (error) {
        pause_.expires_after(kAcceptPause);
        pause_.async_wait([this](error_code aborted) {
          if (!aborted) accept();
        });
        return;
      }
      take(std::move(socket));
      accept();
    });
  }

  void take(tcp::socket socket) {
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    if (connections() >= options_.limits.connections) return turn_away(std::move(socket));
    const auto connection = std::make_shared<Connection>(shared_from_this(), std::move(socket));
    {
      const std::lock_guard lock(mutex_);
      connections_.insert(connection.get());
    }
    connection->start();
  }

  /// One attempt to say why, which cannot block: nothing has been sent on this socket.
  void turn_away(tcp::socket socket) {
    error_code ignored;
    const HttpResponse r = options_.refusal(503, "too many connections");
    socket.non_blocking(true, ignored);
    socket.write_some(asio::buffer(http_head(r, HttpFraming::length, false) + r.body), ignored);
  }

  void stop_accepting() {
    error_code ignored;
    acceptor_.close(ignored);
    pause_.cancel();
    const std::lock_guard lock(mutex_);
    stopped_accepting_ = true;
    release_if_done();
  }

  /// The threads end when there is nothing more to come.
  void release_if_done() {
    if (stopped_accepting_ && connections_.empty()) work_.reset();
  }

  void for_all(void (Connection::*action)()) {
    const std::lock_guard lock(mutex_);
    for (Connection* c : connections_) (c->*action)();
  }

  const HttpOptions options_;
  const HttpHandler handler_;
  asio::io_context io_;
  tcp::acceptor acceptor_;
  asio::steady_timer pause_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  asio::thread_pool workers_;
  std::vector<std::thread> threads_;
  uint16_t port_ = 0;
  std::atomic<bool> draining_ = false;
  std::atomic<size_t> body_bytes_ = 0;  // reserved

  mutable std::mutex mutex_;  // guards what follows
  std::unordered_set<Connection*> connections_;
  bool stopped_accepting_ = false;
};

HttpServer::HttpServer(HttpOptions options, HttpHandler handler)
    : core_(std::make_shared<Core>(std::move(options), std::move(handler))) {
  core_->listen();
}

HttpServer::~HttpServer() {
  core_->abort();
  core_->join();
}

uint16_t HttpServer::port() const { return core_->port(); }
size_t HttpServer::connections() const { return core_->connections(); }
void HttpServer::drain() { core_->drain(); }
void HttpServer::wait() { core_->join(); }

}  // namespace sluice
