// A client that does what tests tell it, well-behaved or not: blocking, one connection.
#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"

namespace sluice {

class RawClient {
 public:
  /// `receive_bytes`: of the system's buffer; 0: its default.
  explicit RawClient(uint16_t port, int receive_bytes = 0) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_bytes > 0) setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~RawClient() { leave(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool connected() const { return connected_; }
  void leave() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  /// False when the server does not take it.
  bool send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  void post(const std::string& path, const std::string& body, const std::string& headers = "") const {
    send("POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
         headers + "\r\n" + body);
  }
  void get(const std::string& path, const std::string& headers = "") const {
    send("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n");
  }

  /// Reads until `text` has come (then true), the server closes or `seconds` pass.
  bool read_until(std::string_view text, double seconds = 10) {
    for (int left = static_cast<int>(seconds * 1000); received_.find(text) == std::string::npos;) {
      pollfd p{fd_, POLLIN, 0};
      constexpr int kStep = 20;
      if (poll(&p, 1, kStep) == 0) {
        if ((left -= kStep) <= 0) return false;
        continue;
      }
      char piece[65536];
      const ssize_t n = recv(fd_, piece, sizeof piece, 0);
      if (n <= 0) {
        closed_ = true;
        return received_.find(text) != std::string::npos;
      }
      received_.append(piece, static_cast<size_t>(n));
    }
    return true;
  }
  /// Everything up to the end of the connection; false when it does not end.
  bool read_to_end(double seconds = 10) {
    read_until(std::string_view("\0never", 6), seconds);
    return closed_;
  }
  /// One response with Content-Length: head and body, taken out of received().
  std::string response(double seconds = 10) {
    if (!read_until("\r\n\r\n", seconds)) return {};
    const size_t head = received_.find("\r\n\r\n") + 4;
    const size_t field = received_.find("Content-Length: ");
    const size_t length = field < head ? std::strtoul(received_.c_str() + field + 16, nullptr, 10) : 0;
    while (received_.size() < head + length && !closed_) read_more();
    const std::string out = received_.substr(0, head + length);
    received_.erase(0, head + length);
    return out;
  }
  const std::string& received() const { return received_; }
  bool closed() const { return closed_; }

 private:
  void read_more() {
    char piece[65536];
    const ssize_t n = recv(fd_, piece, sizeof piece, 0);
    closed_ = n <= 0;
    if (n > 0) received_.append(piece, static_cast<size_t>(n));
  }

  int fd_;
  bool connected_ = false, closed_ = false;
  std::string received_;
};

/// The status of a response.
inline int status_of(std::string_view response) {
  return response.size() > 12 ? std::atoi(std::string(response.substr(9, 3)).c_str()) : 0;
}

}  // namespace sluice
