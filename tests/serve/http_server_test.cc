// The HTTP layer alone, with handlers made up here.
#include "serve/http_server.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "../base/temp_dir.h"
#include "raw_client.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;

/// Waits for a condition that another thread brings about.
template <class F>
bool eventually(F&& holds) {
  for (int i = 0; i < 1000; ++i) {
    if (holds()) return true;
    std::this_thread::sleep_for(milliseconds(10));
  }
  return false;
}

HttpResponse refusal(int status, std::string_view reason) { return {status, "text/plain", std::string(reason)}; }

HttpOptions options(const HttpLimits& limits = {}) {
  HttpOptions o;
  o.port = 0;
  o.limits = limits;
  o.refusal = refusal;
  return o;
}

void echo(HttpRequest r, std::shared_ptr<HttpReply> reply) {
  reply->send({200, "text/plain", r.method + " " + r.path + " " + r.body});
}

/// Sends pieces until nobody takes them; says how the stream ended.
struct Stream {
  std::atomic<int> pieces = 0;
  std::atomic<bool> refused = false, gone = false;
  size_t piece_bytes = 10;
  int most = 1 << 30;
  milliseconds pause{1};

  void operator()(std::shared_ptr<HttpReply> reply) {
    reply->on_gone([this] { gone = true; });
    reply->begin({200, "text/event-stream", "first;"});
    while (pieces < most && !refused) {
      refused = !reply->write(std::string(piece_bytes, 'x'));
      ++pieces;
      std::this_thread::sleep_for(pause);
    }
    reply->end();
  }
};

TEST(HttpServer, KeepsConnectionsAliveAndAnswersInOrder) {
  HttpServer server(options(), echo);
  RawClient client(server.port());
  for (int i = 0; i < 3; ++i) {
    client.post("/a?x=1", "body " + std::to_string(i));
    const std::string r = client.response();
    EXPECT_EQ(status_of(r), 200);
    EXPECT_TRUE(r.ends_with("POST /a body " + std::to_string(i))) << r;
    EXPECT_NE(r.find("Connection: keep-alive"), std::string::npos) << r;
  }
  // Pipelined: both at once, and the third in two parts.
  client.send("GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\nGET /3 HT");
  EXPECT_TRUE(client.response().ends_with("GET /1 "));
  EXPECT_TRUE(client.response().ends_with("GET /2 "));
  client.send("TP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(client.response().ends_with("GET /3 "));
  EXPECT_TRUE(client.read_to_end());
}

TEST(HttpServer, OldClientsAndHeadRequests) {
  HttpServer server(options(), echo);
  RawClient old(server.port());
  old.send("GET /old HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(old.read_to_end());
  EXPECT_TRUE(old.received().ends_with("GET /old ")) << old.received();
  RawClient kept(server.port());  // which is not possible, and said
  kept.send("GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_TRUE(kept.read_to_end());
  EXPECT_NE(kept.received().find("Connection: close\r\n"), std::string::npos) << kept.received();
  RawClient head(server.port());
  head.send("HEAD /h HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(head.read_to_end());
  EXPECT_TRUE(head.received().ends_with("\r\n\r\n")) << head.received();
  EXPECT_NE(head.received().find("Content-Length: 8\r\n"), std::string::npos) << head.received();
}

TEST(HttpServer, StatusesWithoutBodySayNoLength) {
  HttpServer server(options(), [](HttpRequest r, std::shared_ptr<HttpReply> reply) {
    reply->send({r.path == "/204" ? 204 : 304, "", ""});
  });
  RawClient client(server.port());
  for (const int status : {204, 304}) {
    client.get("/" + std::to_string(status));
    const std::string r = client.response();
    EXPECT_EQ(status_of(r), status);
    EXPECT_EQ(r.find("Content-Length"), std::string::npos) << r;
  }
}

TEST(HttpServer, ChunkedBodiesAndContinue) {
  HttpServer server(options(), echo);
  RawClient client(server.port());
  client.send("POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
  EXPECT_TRUE(client.response().ends_with("POST /c abcde"));
  client.send("POST /e HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_TRUE(client.response().starts_with("HTTP/1.1 100 Continue"));
  client.send("ok");
  EXPECT_TRUE(client.response().ends_with("POST /e ok"));
}

TEST(HttpServer, RefusesWhatIsTooLargeOrMalformed) {
  HttpLimits limits;
  limits.header_bytes = 1000;
  limits.body_bytes = 2000;
  HttpServer server(options(limits), echo);
  const struct {
    std::string request;
    int status;
  } cases[] = {
      {"GET / HTTP/1.1\r\nX: " + std::string(2000, 'a') + "\r\n\r\n", 431},
      {"GET /" + std::string(5000, 'a'), 431},
      {"POST / HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n" + std::string(300000, 'a'), 413},
      {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFF\r\n" + std::string(300000, 'a'), 413},
      {"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=" + std::string(1'000'000, 'a'), 431},
      {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: " + std::string(1'000'000, 'a'), 431},
      {"hello\r\n\r\n", 400},
      {std::string("\0\1\2\3\r\n\r\n", 8), 400},
      {"GET / HTTP/3.7\r\n\r\n", 400},
  };
  for (const auto& c : cases) {
    RawClient client(server.port());
    client.send(c.request);
    EXPECT_TRUE(client.read_to_end()) << c.request.substr(0, 60);
    EXPECT_EQ(status_of(client.received()), c.status) << c.request.substr(0, 60) << "\n" << client.received();
  }
}

TEST(HttpServer, ExtensionsAndTrailersAreReadOver) {
  HttpServer server(options(), echo);
  RawClient client(server.port());
  const std::string long_text(10'000, 'a');
  client.send("POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a=" + long_text +
              "\r\nabc\r\n0\r\nA: " + long_text + "\r\n\r\n");
  EXPECT_TRUE(client.response().ends_with("POST /c abc"));
}

TEST(HttpServer, AnErrorInAConnectionEndsThatConnectionAlone) {
  HttpOptions o = options();
  o.refusal = [](int status, std::string_view reason) {
    if (status == 400) throw std::bad_alloc();
    return refusal(status, reason);
  };
  HttpServer server(o, echo);
  RawClient broken(server.port()), client(server.port());
  broken.send("hello\r\n\r\n");
  EXPECT_TRUE(broken.read_to_end());
  EXPECT_EQ(broken.received(), "");
  client.get("/");
  EXPECT_EQ(status_of(client.response()), 200);
  EXPECT_TRUE(eventually([&] { return server.connections() == 1; }));
}

TEST(HttpServer, BodiesTogetherAreBounded) {
  HttpLimits limits;
  limits.body_bytes = 200'000;
  limits.all_body_bytes = 300'000;
  HttpServer server(options(limits), echo);
  const std::string announced = "POST / HTTP/1.1\r\nContent-Length: 200000\r\n\r\n";
  const auto status_of_large = [&] {
    RawClient second(server.port());
    second.send(announced + std::string(200'000, 'x'));
    return status_of(second.response());
  };
  // Announced, but not sent: they take no room.
  std::vector<std::unique_ptr<RawClient>> silent;
  for (int i = 0; i < 4; ++i) {
    silent.push_back(std::make_unique<RawClient>(server.port()));
    silent.back()->send(announced + std::string(50'000, 'x'));
  }
  RawClient first(server.port());
  first.send(announced + std::string(199'000, 'x'));
  EXPECT_TRUE(eventually([&] { return status_of_large() == 503; }));
  RawClient small(server.port());
  small.post("/", "small");
  EXPECT_EQ(status_of(small.response()), 200);
  small.post("/", std::string(60'000, 'y'));
  EXPECT_EQ(status_of(small.response()), 200);
  first.send(std::string(1000, 'x'));
  EXPECT_EQ(status_of(first.response()), 200);
  EXPECT_TRUE(eventually([&] { return status_of_large() == 200; }));
  small.post("/", std::string(200'000, 'y'));
  EXPECT_EQ(status_of(small.response()), 200);
}

TEST(HttpServer, HalfARequestTimesOut) {
  HttpLimits limits;
  limits.header_time = limits.body_time = milliseconds(100);
  HttpServer server(options(limits), echo);
  for (const char* half : {"GET / HT", "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"}) {
    RawClient client(server.port());
    client.send(half);
    EXPECT_TRUE(client.read_to_end());
    EXPECT_EQ(status_of(client.received()), 408) << client.received();
  }
  EXPECT_TRUE(eventually([&] { return server.connections() == 0; }));
}

TEST(HttpServer, IdleConnectionsAreClosed) {
  HttpLimits limits;
  limits.idle_time = milliseconds(100);
  HttpServer server(options(limits), echo);
  RawClient client(server.port());
  EXPECT_TRUE(client.read_to_end());
  EXPECT_EQ(client.received(), "");
}

TEST(HttpServer, TooManyConnectionsAreTurnedAway) {
  HttpLimits limits;
  limits.connections = 2;
  HttpServer server(options(limits), echo);
  RawClient a(server.port()), b(server.port());
  EXPECT_TRUE(eventually([&] { return server.connections() == 2; }));
  RawClient c(server.port());
  EXPECT_TRUE(c.read_to_end());
  EXPECT_EQ(status_of(c.received()), 503);
  a.leave();
  EXPECT_TRUE(eventually([&] { return server.connections() == 1; }));
  RawClient d(server.port());
  d.get("/d");
  EXPECT_EQ(status_of(d.response()), 200);
}

TEST(HttpServer, StreamsInChunks) {
  Stream stream;
  stream.most = 3;
  HttpServer server(options(), [&](HttpRequest, std::shared_ptr<HttpReply> reply) { stream(reply); });
  RawClient client(server.port());
  client.get("/");
  ASSERT_TRUE(client.read_until("\r\n0\r\n\r\n"));
  EXPECT_NE(client.received().find("Transfer-Encoding: chunked\r\n"), std::string::npos);
  EXPECT_TRUE(
      client.received().ends_with("6\r\nfirst;\r\na\r\nxxxxxxxxxx\r\na\r\nxxxxxxxxxx\r\na\r\nxxxxxxxxxx\r\n0\r\n\r\n"))
      << client.received();
  EXPECT_FALSE(stream.gone);
  stream.pieces = 2;
  client.send("GET / HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(client.read_to_end());
  EXPECT_TRUE(client.received().ends_with("\r\n\r\nfirst;xxxxxxxxxx")) << client.received();
}

TEST(HttpServer, WhatIsDueIsWrittenAtOnceAndThenOnceInAFrame) {
  constexpr size_t kPieces = 5;
  std::vector<std::chrono::steady_clock::time_point> calls;
  HttpServer server(options(), [&](HttpRequest, std::shared_ptr<HttpReply> reply) {
    reply->begin({200, "text/event-stream", ""});
    reply->when_due([&, reply] {
      calls.push_back(std::chrono::steady_clock::now());
      if (calls.size() <= kPieces) return reply->write("piece;");
      reply->when_due([reply] {  // it may be asked for again
        reply->write("again;");
        reply->end();
        return false;
      });
      return false;
    });
  });
  RawClient client(server.port());
  client.get("/");
  ASSERT_TRUE(client.read_until("again;\r\n0\r\n\r\n"));
  ASSERT_EQ(calls.size(), kPieces + 1);
  // The first comes in a frame that has begun, the others in frames of their own.
  EXPECT_GT(calls.back() - calls.front(), milliseconds(16) * (kPieces - 1));
  size_t pieces = 0;
  for (size_t at = 0; (at = client.received().find("piece;", at)) != std::string::npos; ++at) ++pieces;
  EXPECT_EQ(pieces, kPieces);
}

TEST(HttpServer, NothingIsDueForAClientThatHasGone) {
  std::atomic<bool> has = false;
  const auto part = std::make_shared<int>();
  HttpServer server(options(), [&](HttpRequest, std::shared_ptr<HttpReply> reply) {
    reply->begin({200, "text/event-stream", "first;"});
    reply->when_due([part, reply] { return reply->write(std::string(100, 'x')) || true; });
    has = true;
  });
  RawClient client(server.port());
  client.get("/");
  ASSERT_TRUE(client.read_until("xxx"));
  client.leave();
  EXPECT_TRUE(eventually([&] { return server.connections() == 0 && part.use_count() == 1; }));
}

TEST(HttpServer, AClientThatVanishesIsNoticed) {
  Stream stream;
  stream.pause = milliseconds(20);
  HttpServer server(options(), [&](HttpRequest, std::shared_ptr<HttpReply> reply) { stream(reply); });
  RawClient client(server.port());
  client.get("/");
  ASSERT_TRUE(client.read_until("first;"));
  client.leave();
  EXPECT_TRUE(eventually([&] { return stream.gone && stream.refused; }));
  EXPECT_TRUE(eventually([&] { return server.connections() == 0; }));
}

TEST(HttpServer, AClientThatReadsTooSlowlyIsGivenUp) {
  HttpLimits limits;
  limits.unsent_bytes = 100'000;
  Stream stream;
  stream.piece_bytes = 50'000;
  HttpServer server(options(limits), [&](HttpRequest, std::shared_ptr<HttpReply> reply) { stream(reply); });
  RawClient client(server.port(), 4096);
  client.get("/");
  EXPECT_TRUE(eventually([&] { return stream.refused.load(); }));
  EXPECT_TRUE(stream.gone);
  EXPECT_LT(stream.pieces * stream.piece_bytes, 20'000'000u);
  EXPECT_TRUE(eventually([&] { return server.connections() == 0; }));
}

TEST(HttpServer, APieceMayBeLargerThanWhatASlowClientMayLeave) {
  HttpLimits limits;
  limits.unsent_bytes = 1000;
  std::atomic<int> taken = 0;
  HttpServer server(options(limits), [&](HttpRequest, std::shared_ptr<HttpReply> reply) {
    reply->begin({200, "text/plain", ""});
    for (const size_t bytes : {1, 10'000'000, 1}) taken += reply->write(std::string(bytes, 'x')) ? 1 : 0;
    reply->end();
  });
  RawClient client(server.port());
  client.get("/");
  EXPECT_TRUE(client.read_until("\r\n1\r\nx\r\n0\r\n\r\n"));
  EXPECT_GT(client.received().size(), 10'000'000u);
  EXPECT_EQ(taken, 3);
}

TEST(HttpServer, AClientThatStopsReadingAWholeResponseIsGivenUp) {
  HttpLimits limits;
  limits.send_time = milliseconds(200);
  HttpServer server(options(limits), [](HttpRequest, std::shared_ptr<HttpReply> reply) {
    reply->send({200, "text/plain", std::string(20'000'000, 'x')});
  });
  RawClient client(server.port(), 4096);
  client.get("/");
  EXPECT_TRUE(client.read_until("200 OK"));
  EXPECT_TRUE(eventually([&] { return server.connections() == 0; }));
}

TEST(HttpServer, AFailingHandlerIsStatus500) {
  HttpServer server(options(), [](HttpRequest r, std::shared_ptr<HttpReply> reply) {
    if (r.path == "/begun") reply->begin({200, "text/plain", "part"});
    throw Bug("handler");
  });
  RawClient client(server.port());
  client.get("/");
  EXPECT_EQ(status_of(client.response()), 500);
  client.get("/begun");
  EXPECT_TRUE(client.read_to_end());
  EXPECT_FALSE(client.received().ends_with("0\r\n\r\n"));  // cut off, not ended
}

TEST(HttpServer, DrainLetsResponsesFinish) {
  std::mutex mutex;
  std::shared_ptr<HttpReply> held;
  HttpServer server(options(), [&](HttpRequest, std::shared_ptr<HttpReply> reply) {
    reply->begin({200, "text/plain", "begun "});
    const std::lock_guard lock(mutex);
    held = std::move(reply);
  });
  RawClient streaming(server.port()), idle(server.port()), half(server.port());
  half.send("GET / HT");
  streaming.get("/");
  ASSERT_TRUE(streaming.read_until("begun "));
  server.drain();
  EXPECT_TRUE(idle.read_to_end());
  EXPECT_TRUE(half.read_to_end());
  EXPECT_TRUE(eventually([&] { return !RawClient(server.port()).connected(); }));
  held->write("later");
  held->end();
  server.wait();
  EXPECT_TRUE(streaming.read_to_end());
  EXPECT_TRUE(streaming.received().ends_with("5\r\nlater\r\n0\r\n\r\n")) << streaming.received();
}

TEST(HttpServer, RepliesMayOutliveIt) {
  std::shared_ptr<HttpReply> held;
  std::atomic<bool> gone = false, has = false;
  {
    HttpServer server(options(), [&](HttpRequest, std::shared_ptr<HttpReply> reply) {
      held = std::move(reply);
      has = true;
    });
    RawClient client(server.port());
    client.get("/");
    ASSERT_TRUE(eventually([&] { return has.load(); }));
    held->on_gone([&] { gone = true; });
  }
  EXPECT_TRUE(gone);
  held->begin({200, "text/plain", ""});
  EXPECT_FALSE(held->write("late"));
  held.reset();
}

TEST(HttpServer, NothingOfItIsLeft) {
  // What is to be done when the threads have ended must not keep the server, or with a reply its connection, alive.
  const auto part = std::make_shared<int>();
  std::shared_ptr<HttpReply> held;
  std::atomic<bool> has = false;
  const auto hold = [&, part](HttpRequest, std::shared_ptr<HttpReply> reply) {
    held = std::move(reply);
    has = true;
  };
  const long users = part.use_count();
  {
    HttpServer server(options(), hold);
    server.drain();
    server.wait();
  }
  EXPECT_EQ(part.use_count(), users);
  for (const bool is_used : {true, false}) {
    has = false;
    {
      HttpServer server(options(), hold);
      RawClient client(server.port());
      client.get("/");
      ASSERT_TRUE(eventually([&] { return has.load(); }));
    }
    if (is_used) held->send({200, "text/plain", "late"});
    held.reset();
    EXPECT_EQ(part.use_count(), users);
  }
}

TEST(HttpServer, AddressesThatCannotBeUsed) {
  HttpServer server(options(), echo);
  HttpOptions taken = options();
  taken.port = server.port();
  EXPECT_NE(error_of([&] { HttpServer second(taken, echo); }).find("cannot listen"), std::string::npos);
  HttpOptions unknown = options();
  unknown.host = "no such host";
  EXPECT_NE(error_of([&] { HttpServer second(unknown, echo); }).find("--host"), std::string::npos);
}

TEST(HttpServer, ManyIdleConnections) {
  HttpServer server(options(), echo);
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 300; ++i) clients.push_back(std::make_unique<RawClient>(server.port()));
  EXPECT_TRUE(eventually([&] { return server.connections() == 300; }));
  for (const auto& c : clients) c->get("/x");
  for (const auto& c : clients) EXPECT_EQ(status_of(c->response()), 200);
}

}  // namespace
}  // namespace sluice
