#include "serve/http_client.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "../base/temp_dir.h"
#include "serve/http_server.h"

namespace sluice {
namespace {

TEST(HttpUrl, Parts) {
  const HttpUrl plain = parse_http_url("http://localhost:8080/");
  EXPECT_EQ(plain.host + "|" + plain.port + "|" + plain.path, "localhost|8080|");
  const HttpUrl below = parse_http_url("http://h/a/b");
  EXPECT_EQ(below.host + "|" + below.port + "|" + below.path, "h|80|/a/b");
  const HttpUrl six = parse_http_url("http://[::1]:81");
  EXPECT_EQ(six.host + "|" + six.port, "::1|81");
  for (const char* bad : {"https://h", "h:80", "http://", "http://h:x", "http://:80", "http://h:"})
    EXPECT_NE(error_of([&] { parse_http_url(bad); }), "") << bad;
}

/// The body of a response that comes in pieces of `size` bytes.
std::string body_of(const std::string& response, size_t size, bool closes) {
  HttpResponseReader reader;
  std::string body;
  for (size_t i = 0; i < response.size(); i += size) body += reader.push(std::string_view(response).substr(i, size));
  if (closes) reader.finish();
  EXPECT_TRUE(closes || reader.done());
  EXPECT_EQ(reader.status(), 200);
  return body;
}

TEST(HttpResponseReader, EveryFramingInEveryCut) {
  for (const size_t size : {1, 2, 7, 1000}) {
    EXPECT_EQ(body_of("HTTP/1.1 200 OK\r\ncontent-LENGTH: 5\r\n\r\nhello", size, false), "hello");
    EXPECT_EQ(
        body_of("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nT: t\r\n\r\n",
                size, false),
        "hello");
    EXPECT_EQ(body_of("HTTP/1.0 200 OK\r\n\r\nhello", size, true), "hello");
    EXPECT_EQ(body_of("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", size, false), "");
  }
}

TEST(HttpResponseReader, RefusesWhatIsNotHttp) {
  for (const std::string& bad : {std::string("SSH-2.0\r\n\r\n"), std::string("HTTP/1.1 abc\r\n\r\n"),
                                 std::string(100'000, 'x'), std::string("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
                                 std::string("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\n")})
    EXPECT_NE(error_of([&] { HttpResponseReader().push(bad); }), "") << bad.substr(0, 60);
  HttpResponseReader half;
  half.push("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel");
  EXPECT_NE(error_of([&] { half.finish(); }), "");
}

TEST(EventReader, DataOfEventsWithoutComments) {
  std::vector<std::string> data;
  EventReader reader;
  for (const char c : std::string(": keep-alive\n\ndata: {\"a\":1}\r\n\r\ndata:x\n\n"))
    reader.push({&c, 1}, [&](std::string_view d) { data.emplace_back(d); });
  EXPECT_EQ(data, (std::vector<std::string>{"{\"a\":1}", "x"}));
}

TEST(HttpExchange, WithOurServer) {
  HttpOptions options;
  options.port = 0;
  options.refusal = [](int status, std::string_view reason) {
    return HttpResponse{status, "text/plain", std::string(reason)};
  };
  HttpServer server(options, [](HttpRequest r, std::shared_ptr<HttpReply> reply) {
    reply->begin({201, "text/plain", r.path + " "});
    reply->write(r.body + " " + std::string(r.header("x")));
    reply->end();
  });
  const HttpUrl url = parse_http_url("http://127.0.0.1:" + std::to_string(server.port()) + "/below");
  std::string body;
  const int status = http_exchange(url, {"POST", "/p", {{"X", "y"}}, "text"}, [&](std::string_view piece) {
    body += piece;
    return true;
  });
  EXPECT_EQ(status, 201);
  EXPECT_EQ(body, "/below/p text y");
  EXPECT_NE(error_of([] {
              http_exchange({"127.0.0.1", "1", ""}, {"GET", "/", {}, ""}, [](std::string_view) { return true; });
            }),
            "");
}

}  // namespace
}  // namespace sluice
