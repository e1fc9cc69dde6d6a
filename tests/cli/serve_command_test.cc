// sluice serve as a process: start, signals, mistakes.
#include <signal.h>

#include <chrono>
#include <thread>

#include "../serve/raw_client.h"
#include "program.h"

namespace sluice {
namespace {

/// A tiny random model with a tokenizer, made once.
const fs::path& tiny_model() {
  static const TempDir dir;
  static const fs::path model = [] {
    write_file(dir / "text", sample_text(20000));
    write_file(dir / "model.json", model_json());
    const Outcome tokenizer =
        sluice({"tokenizer", "train", "--data", dir / "text", "--vocab-size", "300", "--out", dir / "tokenizer"});
    EXPECT_EQ(tokenizer.exit_code, 0) << tokenizer.err;
    const Outcome init = sluice({"init", "--config", dir / "model.json", "--tokenizer", dir / "tokenizer", "--out",
                                 dir / "model", "--type", "f32"});
    EXPECT_EQ(init.exit_code, 0) << init.err;
    return dir / "model";
  }();
  return model;
}

/// A server on a port of its own, ready.
class Server {
 public:
  explicit Server(Words options = {}) : program_(words(std::move(options))) {
    EXPECT_TRUE(eventually([&] { return program_.out().find('\n') != std::string::npos; })) << program_.err();
    const std::string line = program_.out();
    EXPECT_TRUE(line.starts_with("listening on http://127.0.0.1:")) << line;
    port_ = static_cast<uint16_t>(std::stoi(line.substr(line.rfind(':') + 1)));
    EXPECT_TRUE(eventually([&] { return status("/health") == 200; })) << program_.err();
  }
  uint16_t port() const { return port_; }
  Program& program() { return program_; }
  int status(const std::string& path, const std::string& headers = "") const {
    RawClient client(port_);
    client.get(path, headers);
    return status_of(client.response());
  }
  template <class F>
  static bool eventually(F&& holds) {
    for (int i = 0; i < 2000; ++i) {
      if (holds()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

 private:
  static Words words(Words options) {
    Words all = {"serve", "--model", tiny_model(), "--port", "0", "--threads", "1"};
    all.insert(all.end(), options.begin(), options.end());
    return all;
  }
  Program program_;
  uint16_t port_ = 0;
};

const char* const kLongStream =
    R"({"prompt": "the river", "max_tokens": 200, "n": 100, "stream": true, "seed": 1, "logit_bias": {"1": -100}})";

TEST(Serve, SigtermLetsAStreamFinish) {
  Server server;
  RawClient client(server.port());
  client.post("/v1/completions", kLongStream);
  ASSERT_TRUE(client.read_until("\"text\""));
  server.program().send(SIGTERM);
  ASSERT_TRUE(client.received().find("[DONE]") == std::string::npos) << "expected a longer stream";
  EXPECT_TRUE(client.read_to_end(60));
  size_t finished = 0;
  for (size_t at = 0; (at = client.received().find("\"finish_reason\":\"length\"", at)) != std::string::npos; ++at)
    ++finished;
  EXPECT_EQ(finished, 100u);
  EXPECT_TRUE(client.received().ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"));
  const Outcome o = server.program().wait();
  EXPECT_EQ(o.exit_code, 0) << o.err;
  EXPECT_EQ(o.err.find("river"), std::string::npos) << o.err;
}

TEST(Serve, ClosesIdleConnectionsOnInterrupt) {
  Server server;
  RawClient idle(server.port());
  server.program().send(SIGINT);
  EXPECT_EQ(server.program().wait().exit_code, 0);
  EXPECT_TRUE(idle.read_to_end());
}

TEST(Serve, KeysFromAFile) {
  TempDir dir;
  write_file(dir / "keys", "# keys\nabc\n");
  Server server({"--api-key-file", dir / "keys"});
  EXPECT_EQ(server.status("/v1/models"), 401);
  EXPECT_EQ(server.status("/v1/models", "Authorization: Bearer abc\r\n"), 200);
}

TEST(Serve, TheTerminalConnects) {
  Server server({"--served-model-name", "river-model"});
  const std::string url = "http://127.0.0.1:" + std::to_string(server.port());
  const Outcome o = sluice({"chat", "--url", url});
  EXPECT_EQ(o.exit_code, 0) << o.err;
  EXPECT_NE(o.err.find("river-model"), std::string::npos) << o.err;
  expect_user_error(sluice({"chat", "--url", url, "--model", "x"}), {"--model or --url", "both"});
  expect_user_error(sluice({"chat"}), {"--model or --url", "neither"});
  expect_user_error(sluice({"chat", "--url", "http://127.0.0.1:1"}), {"cannot connect"});
}

TEST(Serve, Mistakes) {
  TempDir dir;
  write_file(dir / "keys", "\n");
  const std::string model = tiny_model();
  expect_user_error(sluice({"serve", "--model", dir / "none", "--port", "0"}), {"none"});
  expect_user_error(sluice({"serve", "--model", model, "--host", "nowhere"}), {"--host", "nowhere"});
  expect_user_error(sluice({"serve", "--model", model, "--api-key-file", dir / "keys"}), {"keys", "expected a key"});
  expect_user_error(sluice({"serve", "--model", model, "--port", "70000"}), {"--port"});
  expect_user_error(sluice({"serve", "--model", model, "--port", "0", "--max-queue", "0"}), {"--max-queue"});
  Server server;
  expect_user_error(sluice({"serve", "--model", model, "--port", std::to_string(server.port())}), {"cannot listen"});
}

}  // namespace
}  // namespace sluice
