// An HTTP/1.1 server: many connections on few threads, keep-alive, bodies in pieces, bounds on everything that a client
// decides. It knows nothing of what is served.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "serve/http_message.h"

namespace sluice {

struct HttpLimits {
  using Time = std::chrono::milliseconds;
  size_t header_bytes = size_t{16} << 10;     // of request line and headers; 431 above
  size_t body_bytes = size_t{16} << 20;       // 413 above
  size_t all_body_bytes = size_t{256} << 20;  // of all bodies above 64 KiB, until they are answered; 503 above
  size_t unsent_bytes = size_t{1} << 20;      // of a response in pieces, besides the largest piece, waiting for a slow
                                              // client; then it is given up
  size_t connections = 8192;                  // at a time; 503 above
  Time header_time{10'000};                   // from a request's first byte to the end of its headers; 408 after
  Time body_time{120'000};                    // for its body; 408 after
  Time idle_time{120'000};                    // between requests; the connection is closed after
  Time send_time{30'000};                     // in which the client must take something of what waits for it
};

struct HttpOptions {
  std::string host = "127.0.0.1";  // an address, or localhost
  uint16_t port = 8080;            // 0: any free one
  int workers = 2;                 // threads that run the handler
  HttpLimits limits;
  /// The response to a request that is refused here: status and reason.
  std::function<HttpResponse(int, std::string_view)> refusal;
};

class HttpServer {
 public:
  /// Listens from now on. `handler` runs on one of the workers, several at a time; what it throws becomes status 500.
  /// Replies may outlive the server. Throws Error when the address cannot be used.
  HttpServer(HttpOptions options, HttpHandler handler);
  /// Ends all connections at once.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  uint16_t port() const;
  /// Connections that are open now.
  size_t connections() const;
  /// Accepts no more, closes connections that wait for a request, and lets responses that have begun, or are being
  /// prepared, come to their end.
  void drain();
  /// Returns when, after drain(), the last response has been sent.
  void wait();

 private:
  class Core;
  std::shared_ptr<Core> core_;
};

}  // namespace sluice
