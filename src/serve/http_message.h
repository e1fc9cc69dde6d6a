// HTTP requests and responses as plain values, and the handle by which a response is given. Knows no sockets.
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

/// A request that has arrived in full.
struct HttpRequest {
  std::string method;   // "GET", ...
  std::string path;     // as sent, up to the first '?'
  HttpHeaders headers;  // names in lower case, in the order sent
  std::string body;

  /// The value of the first header of that (lower case) name; empty where there is none.
  std::string_view header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type;
  std::string body;
  HttpHeaders headers = {};  // besides Content-Type, Content-Length, Transfer-Encoding and Connection
};

/// The response to one request, given at once or in pieces, from any thread (one at a time). Dropped without having
/// been ended, it becomes status 500, or a connection that is cut off in mid-response.
class HttpReply {
 public:
  virtual ~HttpReply() = default;
  /// The whole response.
  virtual void send(HttpResponse response) = 0;
  /// Begins a response whose body comes in pieces; `head.body` is the first.
  virtual void begin(HttpResponse head) = 0;
  /// The next piece. False when nobody will get it: the client has gone, or reads so slowly that the buffer is full.
  virtual bool write(std::string_view piece) = 0;
  /// Calls `write` on a thread of the server, again and again until it returns false: at once the first time, then
  /// once in a frame of a screen (16 ms). For a stream whose pieces are better made of all that has come meanwhile: a
  /// small model writes more tokens per second than a processor can send packets. Is not called again before that
  /// false.
  virtual void when_due(std::function<bool()> write) = 0;
  virtual void end() = 0;
  /// `gone` is called once, on any thread, if the client vanishes before the response has ended (at once, if it has
  /// vanished already). It must return quickly.
  virtual void on_gone(std::function<void()> gone) = 0;
};

using HttpHandler = std::function<void(HttpRequest, std::shared_ptr<HttpReply>)>;

/// How the body of a response is delimited.
enum class HttpFraming {
  length,   // Content-Length
  chunked,  // pieces, each with its length
  close,    // the end of the connection: HTTP/1.0
};

/// Status line and headers with the empty line after them.
std::string http_head(const HttpResponse& response, HttpFraming framing, bool keep_alive);

/// One piece of a chunked body; empty for an empty piece, which would end it.
std::string http_chunk(std::string_view piece);

/// "Not Found", ...
std::string_view http_reason(int status);

}  // namespace sluice
