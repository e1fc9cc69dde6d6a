#include "serve/http_client.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace sluice {
namespace {

constexpr std::string_view kScheme = "http://";
constexpr size_t kMostHead = 64 << 10, kMostEvent = 1 << 20, kMostChunk = 1 << 30;

/// The value of a header in a head of lines that end in "\r\n", whatever the case of its name; empty where it is
/// absent.
std::string_view header_value(std::string_view head, std::string_view name) {
  const auto same = [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a - 'A' + 'a' : a) == b; };
  for (size_t at = head.find("\r\n"); at != head.npos; at = head.find("\r\n", at + 2)) {
    const std::string_view line = head.substr(at + 2, head.find("\r\n", at + 2) - at - 2);
    if (line.size() <= name.size() || line[name.size()] != ':') continue;
    if (!std::equal(name.begin(), name.end(), line.begin(), [&](char a, char b) { return same(b, a); })) continue;
    const size_t begin = line.find_first_not_of(' ', name.size() + 1);
    return begin == line.npos ? std::string_view() : line.substr(begin);
  }
  return {};
}

size_t parse_size(std::string_view digits, int base, size_t most) {
  size_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc() || end == digits.data() || value > most) fail("server: malformed length in its response");
  return value;
}

class Socket {
 public:
  explicit Socket(const HttpUrl& url) {
    addrinfo hints{}, *list = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    if (const int error = getaddrinfo(url.host.c_str(), url.port.c_str(), &hints, &list))
      fail("{}: {}", url.host, gai_strerror(error));
    const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(list, freeaddrinfo);
    for (const addrinfo* a = list; a; a = a->ai_next) {
      fd_ = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
      if (fd_ >= 0 && connect(fd_, a->ai_addr, a->ai_addrlen) == 0) return;
      if (fd_ >= 0) close(fd_);
    }
    fail("{}:{}: cannot connect: {}", url.host, url.port, std::strerror(errno));
  }
  ~Socket() { close(fd_); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  void send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("server: {}", std::strerror(errno));
      bytes.remove_prefix(static_cast<size_t>(n));
    }
  }
  /// Bytes read; 0 at the end, -1 after a signal.
  ssize_t receive(char* out, size_t size) const {
    const ssize_t n = recv(fd_, out, size, 0);
    if (n < 0 && errno != EINTR) fail("server: {}", std::strerror(errno));
    return n;
  }

 private:
  int fd_ = -1;
};

}  // namespace

HttpUrl parse_http_url(const std::string& text) {
  if (text.starts_with("https://"))
    fail("{}: expected http://: TLS is not spoken here (an SSH tunnel or a local proxy is)", text);
  if (!text.starts_with(kScheme)) fail("{}: expected http://HOST[:PORT]", text);
  HttpUrl url;
  std::string_view rest = std::string_view(text).substr(kScheme.size());
  const size_t slash = std::min(rest.find('/'), rest.size());
  url.path = std::string(rest.substr(slash));
  while (url.path.ends_with('/')) url.path.pop_back();
  rest = rest.substr(0, slash);
  const size_t bracket = rest.find(']');  // of an IPv6 address
  const size_t colon = rest.find(':', bracket == rest.npos ? 0 : bracket);
  if (colon != rest.npos) url.port = std::string(rest.substr(colon + 1));
  url.host = std::string(rest.substr(0, colon));
  if (bracket != rest.npos && url.host.front() == '[') url.host = url.host.substr(1, bracket - 1);
  const bool digits = std::all_of(url.port.begin(), url.port.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (url.host.empty() || url.port.empty() || !digits) fail("{}: expected http://HOST[:PORT]", text);
  return url;
}

std::string HttpResponseReader::push(std::string_view bytes) {
  held_ += bytes;
  std::string body, line;
  for (bool more = true; more;) {
    more = false;
    switch (state_) {
      case State::head:
        if (held_.find("\r\n\r\n") == held_.npos) {
          if (held_.size() > kMostHead) fail("server: expected an HTTP response, found too long headers");
          break;
        }
        read_head();
        more = true;
        break;
      case State::length:
      case State::chunk: {
        const size_t n = std::min(left_, held_.size());
        body.append(held_, 0, n);
        held_.erase(0, n);
        left_ -= n;
        if (left_ == 0) {
          state_ = state_ == State::chunk ? State::chunk_end : State::done;
          more = true;
        }
        break;
      }
      case State::chunk_size:
        if ((more = take_line(line))) {
          left_ = parse_size(line, 16, kMostChunk);
          state_ = left_ > 0 ? State::chunk : State::trailer;
        }
        break;
      case State::chunk_end:
        if ((more = take_line(line))) state_ = State::chunk_size;
        break;
      case State::trailer:
        if ((more = take_line(line)) && line.empty()) state_ = State::done;
        break;
      case State::until_close:
        body += std::exchange(held_, {});
        break;
      case State::done:
        break;
    }
  }
  return body;
}

void HttpResponseReader::finish() const {
  if (state_ != State::done && state_ != State::until_close) fail("server: broke off in the middle of its response");
}

void HttpResponseReader::read_head() {
  const size_t end = held_.find("\r\n\r\n");
  const std::string head = held_.substr(0, end + 2);
  held_.erase(0, end + 4);
  if (!head.starts_with("HTTP/1.") || head.size() < 12) fail("server: expected an HTTP response");
  status_ = static_cast<int>(parse_size(std::string_view(head).substr(9, 3), 10, 999));
  if (status_ == 100) {  // "continue": the response comes after it
    status_ = 0;
    return;
  }
  const std::string_view length = header_value(head, "content-length");
  if (header_value(head, "transfer-encoding").ends_with("chunked")) {
    state_ = State::chunk_size;
  } else if (!length.empty()) {
    left_ = parse_size(length, 10, SIZE_MAX / 2);
    state_ = State::length;
  } else {
    state_ = State::until_close;
  }
}

bool HttpResponseReader::take_line(std::string& line) {
  const size_t end = held_.find("\r\n");
  if (end == held_.npos) {
    if (held_.size() > kMostHead) fail("server: expected a length, found none");
    return false;
  }
  line = held_.substr(0, end);
  held_.erase(0, end + 2);
  return true;
}

int http_exchange(const HttpUrl& url, const HttpRequest& request,
                  const std::function<bool(std::string_view)>& receive) {
  const Socket socket(url);
  std::string text = fmt::format("{} {}{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n",
                                 request.method, url.path, request.path, url.host, request.body.size());
  for (const auto& [name, value] : request.headers) text += fmt::format("{}: {}\r\n", name, value);
  socket.send(text + "\r\n" + request.body);
  HttpResponseReader reader;
  char piece[16384];
  while (!reader.done()) {
    const ssize_t n = socket.receive(piece, sizeof piece);
    if (n == 0) {
      reader.finish();
      break;
    }
    const std::string body = n > 0 ? reader.push({piece, static_cast<size_t>(n)}) : std::string();
    if ((n < 0 || !body.empty()) && !receive(body)) break;
  }
  return reader.status();
}

void EventReader::push(std::string_view piece, const std::function<void(std::string_view)>& receive) {
  held_ += piece;
  size_t at = 0;
  for (size_t end; (end = held_.find('\n', at)) != held_.npos; at = end + 1) {
    std::string_view line = std::string_view(held_).substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.starts_with("data:")) continue;
    line.remove_prefix(line.starts_with("data: ") ? 6 : 5);
    receive(line);
  }
  held_.erase(0, at);
  if (held_.size() > kMostEvent) fail("server: sent an event of more than {} bytes", kMostEvent);
}

}  // namespace sluice
