// One client's connection. For http_server.cc and http_connection.cc alone: it includes Boost.
#pragma once
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "serve/http_server.h"

namespace sluice {

namespace asio = boost::asio;

/// What connections need of the server. Outlives them.
class ConnectionOwner {
 public:
  virtual ~ConnectionOwner() = default;
  virtual const HttpOptions& options() const = 0;
  virtual bool draining() const = 0;
  /// Sets memory aside for bodies; false when there is not enough.
  virtual bool reserve(size_t bytes) = 0;
  virtual void release(size_t bytes) = 0;
  /// Runs the handler, on a worker.
  virtual void handle(HttpRequest request, std::shared_ptr<HttpReply> reply) = 0;
  /// The connection is closed.
  virtual void closed(class Connection* connection) = 0;
};

/// A state machine on its own strand: idle -> header -> body -> replying -> idle, or lingering -> closed. Something is
/// always being read, so that a client that goes away is noticed while its response is being prepared.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<ConnectionOwner> owner, asio::ip::tcp::socket socket);

  // From any thread.
  void start();
  /// Closes when no response is under way, else after it.
  void drain();
  /// Closes now.
  void abort();

  // For the reply, from any thread.
  /// False when the client has gone, or, for `bounded` bytes, has not taken enough of those before: a piece may be of
  /// any size, and what follows at once is not refused for its sake. `last`: the response ends with this.
  bool push(std::string_view bytes, bool bounded, bool last);
  /// As HttpReply::when_due.
  void when_due(std::function<bool()> write);
  /// Cuts the connection off: a response that has begun cannot be completed.
  void give_up();
  void on_gone(std::function<void()> gone);
  HttpFraming stream_framing() const { return http11_ ? HttpFraming::chunked : HttpFraming::close; }
  bool keep_alive() const { return keep_alive_ && http11_ && !owner_->draining(); }
  bool wants_body() const { return !head_only_; }

 private:
  enum class State { idle, header, body, replying, lingering, closed };
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;

  template <class F>
  void post(F&& action);
  template <class F>
  void guarded(F&& action);
  void begin_request();
  void read();
  void on_read(boost::system::error_code error, size_t n);
  void parse();
  bool reserve_body();
  void release_body();
  void note_progress();
  void refuse(int status, std::string_view reason);
  void dispatch();
  void write_due();
  void flush();
  void write_some();
  void on_written(boost::system::error_code error, size_t n);
  void finish_response();
  void linger();
  void lose();
  void close();
  void set_deadline(HttpLimits::Time time);
  void clear_deadline();
  void on_deadline();
  const HttpLimits& limits() const { return owner_->options().limits; }

  const std::shared_ptr<ConnectionOwner> owner_;
  asio::ip::tcp::socket socket_;
  asio::steady_timer timer_, frame_timer_;
  uint64_t deadline_ = 0;            // number of the deadline that counts
  std::function<bool()> write_due_;  // of when_due(), until it returns false
  int64_t last_frame_ = -1;          // in which it was called for this response
  bool flush_missed_ = false;        // flush() was called while something was being sent
  boost::beast::flat_buffer input_;
  std::optional<Parser> parser_;
  State state_ = State::idle;
  bool reading_ = false, continued_ = false, refused_ = false;
  size_t reserved_ = 0;  // bytes set aside for the body
  std::string writing_;  // of which `written_` bytes are sent
  size_t written_ = 0;

  std::atomic<bool> http11_ = true, keep_alive_ = true, head_only_ = false;

  std::mutex mutex_;  // guards what follows
  std::string pending_;
  size_t in_flight_ = 0;       // bytes of writing_ that are not sent
  size_t largest_piece_ = 0;   // of this response
  bool flush_posted_ = false;  // what is pending will be sent
  bool ended_ = false, gone_ = false;
  bool closed_ = false;  // nothing is posted any more
  std::function<void()> gone_callback_;
};

}  // namespace sluice
