// sluice serve: an HTTP server that speaks OpenAI's and DeepSeek's API.
#include <sys/resource.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/inference.h"
#include "cli/stop_signals.h"
#include "serve/api_error.h"
#include "serve/api_key.h"
#include "serve/http_server.h"
#include "serve/service.h"

namespace sluice {
namespace {

constexpr const char* kKeyVariable = "SLUICE_API_KEY";
/// File descriptors for everything but connections.
constexpr rlim_t kOtherFiles = 64;

struct Arguments {
  InferenceOptions inference;
  SchedulerOptions scheduler;
  std::vector<std::string> names;
  std::string host = "127.0.0.1", key_file, cors_origin, cache_folder;
  uint16_t port = 8080;
};

/// The scheduler as the server sees it.
class SchedulerTexts final : public TextSource {
 public:
  SchedulerTexts(Engine& engine, const SchedulerOptions& options) : scheduler_(engine, options) { scheduler_.start(); }
  Submission submit(Request request) override { return scheduler_.submit(std::move(request)); }
  void cancel(uint64_t id) override { scheduler_.cancel(id); }
  SchedulerStats stats() const override { return scheduler_.stats(); }

 private:
  Scheduler scheduler_;
};

std::vector<std::string> api_keys(const Arguments& a) {
  if (!a.key_file.empty()) return parse_api_keys(read_file(a.key_file), a.key_file);
  const char* key = std::getenv(kKeyVariable);
  return key && *key ? parse_api_keys(key, kKeyVariable) : std::vector<std::string>();
}

/// As many connections as the system has file descriptors for.
HttpLimits limits_here() {
  HttpLimits limits;
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return limits;
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < limits.connections + kOtherFiles)
    limits.connections = files.rlim_cur > kOtherFiles ? files.rlim_cur - kOtherFiles : 1;
  return limits;
}

/// The last part of the path, without .gguf: "out/demo/" is demo.
std::string name_of(const std::string& path) {
  const fs::path clean = fs::absolute(path).lexically_normal();
  const fs::path last = clean.has_filename() ? clean.filename() : clean.parent_path().filename();
  return (last.extension() == ".gguf" ? last.stem() : last).string();
}

/// What the API's documentation says where neither request nor checkpoint does: temperature 1, all tokens.
GenerateOptions server_defaults(const Inference& i) {
  const HfGeneration own = generation_defaults(i.path);
  SamplingOptions sampling;
  sampling.temperature = static_cast<float>(own.temperature.value_or(1));
  sampling.top_p = static_cast<float>(own.top_p.value_or(1));
  sampling.max_tokens = i.engine->context();
  return generate_options(sampling, i);
}

ServedModel served_model(const Arguments& a, const Inference& i, TextSource& texts) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const Tokenizer& tokenizer = i.need_tokenizer();
  return {a.names.empty() ? std::vector<std::string>{name_of(a.inference.model)} : a.names,
          tokenizer,
          ChatFormat(i.tokenizer_config, i.path.string()),
          std::make_shared<const TokenTrie>(tokenizer),
          i.engine->context(),
          server_defaults(i),
          std::chrono::duration_cast<std::chrono::seconds>(now).count(),
          &texts};
}

void log_to_stderr(std::string_view line) { fmt::print(stderr, "{}\n", line); }

/// The first signal ends the server when all responses have been sent, the second at once.
void run(const Arguments& a) {
  watch_stop_signals();
  ServiceOptions service_options;
  service_options.api_keys = api_keys(a);
  service_options.cors_origin = a.cors_origin;
  service_options.log = log_to_stderr;
  HttpServer* listening = nullptr;
  service_options.connections = [&] { return listening ? listening->connections() : 0; };

  Inference inference;
  std::optional<ServedModel> model;
  Service service(service_options);
  HttpOptions http{a.host, a.port, 2, limits_here(),
                   [&](int status, std::string_view reason) { return service.refuse(status, reason); }};
  HttpServer server(http, [&](HttpRequest request, std::shared_ptr<HttpReply> reply) {
    service.handle(std::move(request), std::move(reply));
  });
  listening = &server;
  write_out(fmt::format("listening on http://{}:{}\n", a.host, server.port()));

  inference = open_inference(a.inference);
  SchedulerTexts texts(*inference.engine, a.scheduler);
  model.emplace(served_model(a, inference, texts));
  service.set_model(*model);
  log_to_stderr(fmt::format("{}: ready", inference.path.string()));
  wait_for_stop();
  log_to_stderr("finishing what has begun (another signal ends at once)");
  server.drain();
  server.wait();
}

void add_model_options(CLI::App& c, Arguments& a) {
  add_inference_options(c, a.inference);
  add_device_option(c, a.inference);
  a.inference.cache_memory = uint64_t{2} << 30;
  c.add_option("--kv-cache-memory", a.inference.cache_memory,
               "memory for the tokens of all texts and of prefixes that may come again, as 2GiB; at least one context")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 50))
      ->default_str("2GiB");
  c.add_option("--kv-cache-tokens", a.inference.cache_tokens, "the same as a number of tokens")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  c.add_option("--kv-cache-dir", a.cache_folder, "folder where prefixes survive a restart (default: nowhere)");
  c.add_option("--kv-cache-dir-size", a.scheduler.cache_bytes,
               "most bytes in that folder, as 4GiB; what was not used for the longest time is removed")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 50))
      ->default_str("4GiB");
  c.add_option("--max-num-seqs", a.scheduler.max_running, "most texts that are written at a time")
      ->check(CLI::Range(int64_t{1}, kPassRows))
      ->capture_default_str();
  c.add_option("--max-queue", a.scheduler.max_waiting, "most texts that wait; beyond, requests get status 429")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
}

}  // namespace

void add_serve_command(CLI::App& app) {
  const auto a = std::make_shared<Arguments>();
  CLI::App* c = app.add_subcommand("serve", "Serve a model over HTTP: OpenAI's and DeepSeek's API, and a chat page");
  add_model_options(*c, *a);
  c->add_option("--host", a->host, "address to listen on; 0.0.0.0: all of this machine's")->capture_default_str();
  c->add_option("--port", a->port, "0: any free one, which is printed")->capture_default_str();
  c->add_option("--served-model-name", a->names,
                "name of the model for clients; may be given several times (default: its folder's or file's name)")
      ->take_all();
  c->add_option(
       "--api-key-file", a->key_file,
       "file with keys, one a line, of which clients must show one (default: the key in SLUICE_API_KEY, if any)")
      ->check(CLI::ExistingFile);
  c->add_option("--cors-origin", a->cors_origin,
                "web origin whose pages may use this server, as https://chat.example (default: none; *: all)");
  c->footer(
      "Ends on SIGTERM or Ctrl-C when all responses have been sent; at once on a second one.\n"
      "The page is at /, its monitor at /monitor. docs/serving.md lists all addresses.\n\n"
      "Example: sluice serve --model out/demo --port 8080");
  c->callback([a] {
    a->scheduler.cache_folder = a->cache_folder;
    run(*a);
  });
}

}  // namespace sluice
