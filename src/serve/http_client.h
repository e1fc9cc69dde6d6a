// A plain HTTP/1.1 client for one request at a time: what the terminal needs to talk to a server.
#pragma once
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "serve/http_message.h"

namespace sluice {

/// http://HOST[:PORT][/PATH]
struct HttpUrl {
  std::string host, port = "80";
  std::string path;  // without a slash at its end
};

/// Throws Error for anything else; https is refused with a hint.
HttpUrl parse_http_url(const std::string& text);

/// Takes the framing off a response that comes in pieces. Throws Error for what is not HTTP, and for headers above 64
/// KiB.
class HttpResponseReader {
 public:
  /// Appends the next bytes; returns what they hold of the body.
  std::string push(std::string_view bytes);
  /// The connection has ended. Throws Error when the response has not.
  void finish() const;
  /// 0 until the headers are complete.
  int status() const { return status_; }
  bool done() const { return state_ == State::done; }

 private:
  enum class State { head, length, chunk_size, chunk, chunk_end, trailer, until_close, done };
  void read_head();
  bool take_line(std::string& line);

  State state_ = State::head;
  std::string held_;
  int status_ = 0;
  size_t left_ = 0;  // of the body, or of the chunk
};

/// Sends a request and gives the pieces of the response's body to `receive` as they come; it is also called, with
/// nothing, when a signal has come, and ends the exchange by returning false. Returns the status. Throws Error when the
/// server cannot be reached or breaks off.
int http_exchange(const HttpUrl& url, const HttpRequest& request, const std::function<bool(std::string_view)>& receive);

/// Cuts a stream of events (text/event-stream) that comes in pieces into the data of its events.
class EventReader {
 public:
  /// Calls `receive` for each event that is complete now. Throws Error for one above 1 MiB.
  void push(std::string_view piece, const std::function<void(std::string_view)>& receive);

 private:
  std::string held_;
};

}  // namespace sluice
