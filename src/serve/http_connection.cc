#include "serve/http_connection.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/error.hpp>

#include "base/error.h"

namespace sluice {
namespace {

namespace http = boost::beast::http;
using boost::system::error_code;

constexpr size_t kReadBytes = 4096, kBodyReadBytes = 65536;
/// Of the next request, read while a response is under way. What comes after it waits in the system's buffers.
constexpr size_t kPipelinedBytes = 16384;
/// Of a body, for which no room is needed: that others send large ones keeps no ordinary request out.
constexpr size_t kFreeBodyBytes = 65536;
/// Of a screen. All connections have the same frames, so that a thread wakes up once for all that is due.
constexpr HttpLimits::Time kFrame{16};
/// Time for a client to read the last response before its unread input would reset the connection.
constexpr HttpLimits::Time kLingerTime{2000};

std::string lower_case(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

int64_t frame_now() { return std::chrono::steady_clock::now().time_since_epoch() / kFrame; }

HttpRequest plain_request(http::request<http::string_body>&& r) {
  HttpRequest out;
  out.method = std::string(r.method_string());
  const std::string_view target(r.target().data(), r.target().size());
  out.path = std::string(target.substr(0, target.find('?')));
  for (const auto& field : r)
    out.headers.emplace_back(lower_case(std::string_view(field.name_string().data(), field.name_string().size())),
                             std::string(field.value()));
  out.body = std::move(r.body());
  return out;
}

/// The reply to one request of a connection.
class ConnectionReply final : public HttpReply {
 public:
  ConnectionReply(std::shared_ptr<Connection> connection, const HttpOptions& options)
      : connection_(std::move(connection)), options_(options) {}
  ~ConnectionReply() override {
    if (ended_) return;
    if (begun_) {
      connection_->give_up();
    } else {
      send(options_.refusal(500, "the server failed to answer"));
    }
  }

  void send(HttpResponse r) override {
    std::string text = http_head(r, HttpFraming::length, connection_->keep_alive());
    if (connection_->wants_body()) text += r.body;
    ended_ = true;
    connection_->push(text, false, true);
  }
  void begin(HttpResponse head) override {
    framing_ = connection_->stream_framing();
    begun_ = true;
    connection_->push(http_head(head, framing_, connection_->keep_alive() && framing_ == HttpFraming::chunked), false,
                      false);
    write(head.body);
  }
  bool write(std::string_view piece) override {
    if (!connection_->wants_body()) return true;
    return connection_->push(framing_ == HttpFraming::chunked ? http_chunk(piece) : std::string(piece), true, false);
  }
  void when_due(std::function<bool()> write) override { connection_->when_due(std::move(write)); }
  void end() override {
    ended_ = true;
    connection_->push(framing_ == HttpFraming::chunked && connection_->wants_body() ? "0\r\n\r\n" : "", false, true);
  }
  void on_gone(std::function<void()> gone) override { connection_->on_gone(std::move(gone)); }

 private:
  const std::shared_ptr<Connection> connection_;
  const HttpOptions& options_;
  HttpFraming framing_ = HttpFraming::length;
  bool begun_ = false, ended_ = false;
};

}  // namespace

Connection::Connection(std::shared_ptr<ConnectionOwner> owner, asio::ip::tcp::socket socket)
    : owner_(std::move(owner)),
      socket_(std::move(socket)),
      timer_(socket_.get_executor()),
      frame_timer_(socket_.get_executor()),
      input_(std::max(limits().header_bytes, kPipelinedBytes) + kBodyReadBytes) {}

void Connection::start() {
  post([this] {
    begin_request();
    read();
  });
}

/// `action` on the strand, unless the connection is closed: the threads may have ended then, and what waits for them
/// would keep itself alive, since it holds the connection, which holds the server.
template <class F>
void Connection::post(F&& action) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  asio::post(socket_.get_executor(),
             [self = shared_from_this(), action = std::forward<F>(action)] { self->guarded(action); });
}

/// What an event leads to. Where memory is short, this connection ends, not the thread that serves them all.
template <class F>
void Connection::guarded(F&& action) {
  try {
    action();
  } catch (const std::exception& e) {
    fmt::print(stderr, "serve: a connection was cut off: {}\n", e.what());
    lose();
  }
}

void Connection::drain() {
  post([this] {
    if (state_ < State::replying) close();
  });
}

void Connection::abort() {
  post([this] { lose(); });
}

void Connection::begin_request() {
  parser_.emplace();
  parser_->header_limit(static_cast<std::uint32_t>(limits().header_bytes));
  parser_->body_limit(limits().body_bytes);
  parser_->eager(true);
  continued_ = false;
  state_ = State::idle;
  if (owner_->draining()) return close();
  set_deadline(limits().idle_time);
  if (input_.size() > 0) parse();
}

void Connection::read() {
  if (reading_ || state_ == State::closed) return;
  if (state_ == State::replying && input_.size() >= kPipelinedBytes) return;
  reading_ = true;
  socket_.async_read_some(
      input_.prepare(state_ == State::body ? kBodyReadBytes : kReadBytes),
      [self = shared_from_this()](error_code error, size_t n) { self->guarded([&] { self->on_read(error, n); }); });
}

void Connection::on_read(error_code error, size_t n) {
  reading_ = false;
  if (state_ == State::closed) return;
  if (error) return lose();
  input_.commit(n);
  if (state_ == State::lingering) {
    input_.consume(input_.size());
  } else if (state_ != State::replying) {
    parse();
  }
  read();
}

void Connection::parse() {
  error_code error;
  while (input_.size() > 0 && !parser_->is_done() && !error) {
    const size_t used = parser_->put(input_.data(), error);
    input_.consume(used);
    if (used == 0) break;
  }
  if (error == http::error::header_limit) return refuse(431, "the headers are too large");
  if (error == http::error::body_limit) return refuse(413, "the body is too large");
  if (error && error != http::error::need_more) return refuse(400, "malformed HTTP: " + error.message());
  if (!reserve_body()) return refuse(503, "too many large requests at a time");
  if (parser_->is_done()) return dispatch();
  // The parser takes a chunk's extensions, and the trailers, only when they are complete.
  if (parser_->is_header_done() && input_.size() > limits().header_bytes)
    return refuse(431, "chunk extensions or trailers are too large");
  note_progress();
}

/// Room for what has come of the body, not for what is announced: a client that sends nothing keeps nobody out.
bool Connection::reserve_body() {
  const size_t bytes = parser_->get().body().size();
  if (bytes <= std::max(reserved_, kFreeBodyBytes)) return true;
  if (!owner_->reserve(bytes - reserved_)) return false;
  reserved_ = bytes;
  return true;
}

void Connection::release_body() { owner_->release(std::exchange(reserved_, 0)); }

/// A request that is not complete: which part is awaited, and how long.
void Connection::note_progress() {
  if (state_ == State::idle) {
    state_ = State::header;
    set_deadline(limits().header_time);
  }
  if (state_ == State::header && parser_->is_header_done()) {
    state_ = State::body;
    set_deadline(limits().body_time);
    const auto expected = parser_->get()[http::field::expect];
    if (!continued_ && boost::beast::iequals(expected, "100-continue")) {
      continued_ = true;
      push("HTTP/1.1 100 Continue\r\n\r\n", false, false);
    }
  }
}

void Connection::refuse(int status, std::string_view reason) {
  refused_ = true;
  state_ = State::replying;
  parser_.reset();  // with what has come of the body
  const HttpResponse r = owner_->options().refusal(status, reason);
  push(http_head(r, HttpFraming::length, false) + r.body, false, true);
}

void Connection::dispatch() {
  auto message = parser_->release();
  parser_.reset();
  http11_ = message.version() >= 11;
  keep_alive_ = message.keep_alive();
  head_only_ = message.method() == http::verb::head;
  state_ = State::replying;
  clear_deadline();
  const auto reply = std::make_shared<ConnectionReply>(shared_from_this(), owner_->options());
  owner_->handle(plain_request(std::move(message)), reply);
}

bool Connection::push(std::string_view bytes, bool bounded, bool last) {
  std::function<void()> too_slow;
  bool overflow = false;
  {
    const std::lock_guard lock(mutex_);
    if (gone_) return false;
    if (bounded && pending_.size() + in_flight_ > limits().unsent_bytes + largest_piece_) {
      overflow = gone_ = true;
      too_slow = std::exchange(gone_callback_, nullptr);
    } else {
      pending_ += bytes;
      largest_piece_ = std::max(largest_piece_, bytes.size());
      ended_ = ended_ || last;
      if (std::exchange(flush_posted_, true)) return true;
    }
  }
  if (overflow) {
    if (too_slow) too_slow();
    abort();
    return false;
  }
  post([this] { flush(); });
  return true;
}

void Connection::when_due(std::function<bool()> write) {
  post([this, write = std::move(write)] {
    if (state_ == State::closed) return;
    write_due_ = write;
    write_due();
  });
}

/// Calls write_due_ once in a frame, as long as it has something to write.
void Connection::write_due() {
  if (!write_due_) return;
  const int64_t frame = frame_now();
  if (std::exchange(last_frame_, frame) < frame && !write_due_()) {
    write_due_ = nullptr;
    return;
  }
  frame_timer_.expires_at(std::chrono::steady_clock::time_point(kFrame * (frame + 1)));
  frame_timer_.async_wait([self = shared_from_this()](error_code error) {
    if (!error) self->guarded([&] { self->write_due(); });
  });
}

void Connection::give_up() { abort(); }

void Connection::on_gone(std::function<void()> gone) {
  {
    const std::lock_guard lock(mutex_);
    if (!gone_) {
      gone_callback_ = std::move(gone);
      return;
    }
  }
  gone();
}

/// Sends what is pending, unless something is being sent: then this is called again when it has been.
void Connection::flush() {
  flush_missed_ = !writing_.empty();
  if (state_ == State::closed || flush_missed_) return;
  bool ended;
  {
    const std::lock_guard lock(mutex_);
    flush_posted_ = false;
    writing_.swap(pending_);
    in_flight_ = writing_.size();
    ended = ended_;
  }
  written_ = 0;
  if (!writing_.empty()) {
    write_some();
  } else if (ended) {
    finish_response();
  }
}

void Connection::write_some() {
  set_deadline(limits().send_time);
  socket_.async_write_some(
      asio::buffer(writing_.data() + written_, writing_.size() - written_),
      [self = shared_from_this()](error_code error, size_t n) { self->guarded([&] { self->on_written(error, n); }); });
}

void Connection::on_written(error_code error, size_t n) {
  if (state_ == State::closed) return;
  if (error) return lose();
  written_ += n;
  bool ended;
  {
    const std::lock_guard lock(mutex_);
    in_flight_ -= n;
    ended = ended_;
  }
  if (written_ < writing_.size()) return write_some();
  writing_.clear();
  if (state_ == State::body) {
    set_deadline(limits().body_time);
  } else {
    clear_deadline();
  }
  if (ended || flush_missed_) flush();
}

void Connection::finish_response() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = false;
    largest_piece_ = 0;
    gone_callback_ = nullptr;
  }
  write_due_ = nullptr;
  last_frame_ = -1;
  release_body();
  if (refused_) return linger();
  if (!keep_alive()) return close();
  begin_request();
  read();
}

/// Ends the connection so that the client gets the response, though not all that it sends has been read.
void Connection::linger() {
  error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  state_ = State::lingering;
  input_.consume(input_.size());
  set_deadline(kLingerTime);
  read();
}

/// The client has gone, or is given up.
void Connection::lose() {
  std::function<void()> gone;
  {
    const std::lock_guard lock(mutex_);
    gone_ = true;
    gone = std::exchange(gone_callback_, nullptr);
  }
  if (gone) gone();
  close();
}

void Connection::close() {
  if (state_ == State::closed) return;
  state_ = State::closed;
  {
    const std::lock_guard lock(mutex_);
    closed_ = gone_ = true;
  }
  error_code ignored;
  clear_deadline();
  write_due_ = nullptr;
  frame_timer_.cancel();
  release_body();
  socket_.close(ignored);
  owner_->closed(this);
}

void Connection::set_deadline(HttpLimits::Time time) {
  timer_.expires_after(time);
  timer_.async_wait([self = shared_from_this(), number = ++deadline_](error_code) {
    if (number == self->deadline_) self->guarded([&] { self->on_deadline(); });
  });
}

/// A wait that has just ended, but has not been handled, counts for nothing either.
void Connection::clear_deadline() {
  ++deadline_;
  timer_.cancel();
}

void Connection::on_deadline() {
  if (state_ == State::header) return refuse(408, "the headers took too long");
  if (state_ == State::body) return refuse(408, "the body took too long");
  lose();
}

}  // namespace sluice
