#include "cli/inference.h"

#include <map>
#include <random>
#include <thread>

#include "convert/gguf_config.h"
#include "convert/gguf_model.h"
#include "convert/gguf_tokenizer.h"
#include "model/checkpoint.h"

namespace sluice {
namespace {

constexpr float kTemperature = 0.8f, kTopP = 0.95f;

volatile std::sig_atomic_t interrupt_flag = 0;

extern "C" void sluice_on_interrupt(int) { interrupt_flag = 1; }

double rate(int64_t tokens, double seconds) { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0; }

double percent(int64_t part, int64_t whole) {
  return whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

double read_rate(const ExpertTraffic& t) { return t.read_seconds > 0 ? t.bytes / t.read_seconds : 0.0; }

/// Speed of writing: the first token belongs to the prompt's time.
double writing_rate(const GenerateResult& r) { return rate(std::max<int64_t>(r.tokens - 1, 0), r.seconds); }

/// A finite number from `low` to `high` (CLI::Range lets NaN through).
CLI::Validator number(double low, double high) {
  return CLI::Validator(
      [low, high](const std::string& text) {
        char* end = nullptr;
        const double value = std::strtod(text.c_str(), &end);
        const bool ok = end != text.c_str() && *end == '\0' && value >= low && value <= high;
        return ok ? std::string() : fmt::format("expected a number from {} to {}, found {}", low, high, text);
      },
      "NUMBER");
}

}  // namespace

void add_inference_options(CLI::App& command, InferenceOptions& options) {
  command
      .add_option("--model", options.model,
                  "checkpoint folder, training run (its latest checkpoint), or GGUF file (or its first part)")
      ->required();
  command.add_option("--threads", options.threads, "threads; 0: one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command.add_option("--ctx", options.context, "context length in tokens; 0: the model's max_position_embeddings")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24))
      ->capture_default_str();
  add_memory_option(command, options);
}

void add_memory_option(CLI::App& command, InferenceOptions& options) {
  command
      .add_option(
          "--memory", options.memory,
          "most memory to use, as 8GiB: routed experts that do not fit are read from the GGUF file when they are "
          "needed (default: no bound)")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 50));
}

void add_device_option(CLI::App& command, InferenceOptions& options) {
  options.device = kAnyDevice;
  command
      .add_option("--device", options.device,
                  "cpu, cuda or cuda:N; auto: a GPU where there is one and the model fits, else the CPU")
      ->check(CLI::Validator(
          [](const std::string& text) {
            try {
              if (text != kAnyDevice) parse_device(text);
              return std::string();
            } catch (const Error& e) {
              return std::string(e.what());
            }
          },
          "DEVICE"))
      ->capture_default_str();
}

const Tokenizer& Inference::need_tokenizer() const {
  if (!tokenizer) fail("{}: expected a tokenizer for text; without one, give --ids", path.string());
  return *tokenizer;
}

std::vector<int32_t> Inference::encode(std::string_view text, bool parse_special) const {
  const Tokenizer& t = need_tokenizer();
  std::vector<int32_t> ids;
  if (t.add_bos()) ids.push_back(t.bos_id());
  t.encode(text, parse_special, ids);
  return ids;
}

namespace {

EngineOptions engine_options(const InferenceOptions& o, const Model& m) {
  const int64_t layers = m.config.num_hidden_layers + (m.weights.mtp.empty() ? 0 : 1);
  const auto token_bytes = static_cast<uint64_t>(layers * latent_shape(m.config).row()) * sizeof(float);
  return {o.context, o.cache_tokens > 0 ? o.cache_tokens : static_cast<int64_t>(o.cache_memory / token_bytes),
          o.memory};
}

void print_plan(const fs::path& path, const Model& m, const InferenceOptions& options) {
  const MemoryPlan p = plan_memory(m, engine_options(options, m));
  const auto gib = [](size_t bytes) { return static_cast<double>(bytes) / (1 << 30); };
  fmt::print(
      stderr,
      "{}: {:.2f} GiB of memory: {:.2f} for weights other than routed experts, {:.2f} for tokens, {:.2f} to work "
      "in, {:.2f} for {} of {} routed experts; at worst {:.2f} GiB are read per token\n",
      path.string(), gib(p.budget), gib(p.weights), gib(p.sequences), gib(p.workspace),
      gib(p.slot_bytes * static_cast<size_t>(p.slots)), p.slots, p.experts, gib(p.token_bytes));
}

void use_tokenizer(Inference& i, const TokenizerData& data) {
  i.tokenizer.emplace(data);
  i.tokenizer_config = data.config;
}

/// Returns the number of MTP modules that config.json announces.
int64_t open_folder(Inference& i, const fs::path& folder) {
  i.path = resolve_checkpoint(folder);
  if (has_tokenizer(i.path)) use_tokenizer(i, load_tokenizer(i.path));
  i.model = std::make_unique<Model>(load_model(*i.stream, i.path, file_precision(SafetensorsFolder(i.path))));
  return load_config(i.path).num_nextn_predict_layers;
}

/// The same of a GGUF file.
int64_t open_gguf(Inference& i, const fs::path& path, const InferenceOptions& options) {
  const auto file = std::make_shared<const GgufFile>(path);
  i.path = file->path();
  if (const auto data = read_gguf_tokenizer(file->metadata())) use_tokenizer(i, *data);
  i.model = std::make_unique<Model>(map_gguf_model(file));
  if (options.memory > 0) print_plan(i.path, *i.model, options);
  read_gguf_copies(*i.stream, *i.model, file);
  return read_gguf_config(file->metadata()).num_nextn_predict_layers;
}

/// The GPU to run on; null: the CPU. Says why it is the CPU where a GPU was to be expected.
std::unique_ptr<Stream> open_gpu(const InferenceOptions& options, const Model& m, int threads) {
  const bool any = options.device == kAnyDevice;
  const Device device = any ? Device{Device::Kind::cuda, 0} : parse_device(options.device);
  if (!device.is_cuda()) return nullptr;
  if (options.memory > 0) {
    if (!any) fail("--memory: expected --device cpu, found {}", options.device);
    return nullptr;
  }
  const auto on_cpu = [&](const std::string& why) {
    fmt::print(stderr, "device {}: {}; running on the CPU\n", device_text(device), why);
    return nullptr;
  };
  if (const std::string why = why_unusable(device); !why.empty()) return any ? nullptr : on_cpu(why);
  const std::string why = why_too_large(plan_gpu(m, engine_options(options, m), device), free_memory(device));
  if (!why.empty() && any) return on_cpu(why);
  if (!why.empty()) fail("device {}: {}", device_text(device), why);
  return std::make_unique<Stream>(device, threads);
}

}  // namespace

Inference open_inference(const InferenceOptions& options) {
  Inference i;
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const int threads = options.threads ? options.threads : cores;
  i.stream = std::make_unique<Stream>(threads);
  const auto gguf = find_gguf(options.model);
  if (options.memory > 0 && !gguf)
    fail("{}: --memory: expected a GGUF file (sluice quantize and sluice convert make one), found another checkpoint",
         options.model);
  const int64_t mtp_modules = gguf ? open_gguf(i, *gguf, options) : open_folder(i, options.model);
  if (mtp_modules > i.model->config.num_nextn_predict_layers)
    fmt::print(stderr, "{}: announces an MTP module that its files do not hold: loaded without\n", i.path.string());
  i.gpu = open_gpu(options, *i.model, threads);
  i.engine = std::make_unique<Engine>(*i.stream, *i.model, engine_options(options, *i.model), i.gpu.get());
  return i;
}

void add_sampling_options(CLI::App& command, SamplingOptions& options) {
  static const std::map<std::string, Draft> kDrafts = {
      {"off", Draft::off}, {"on", Draft::on}, {"auto", Draft::automatic}, {"lookup", Draft::lookup}};
  command
      .add_option("--temperature", options.temperature,
                  "0: always the most probable token (default: generation_config.json's, else 0.8)")
      ->check(number(0, 100));
  command.add_option("--top-k", options.top_k, "then draw from the k most probable tokens; 0: no limit")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 31))
      ->capture_default_str();
  command
      .add_option("--top-p", options.top_p,
                  "of these from the most probable that hold this share (default: generation_config.json's, else 0.95)")
      ->check(number(1e-6, 1));
  command
      .add_option("--min-p", options.min_p,
                  "of these from those at least this many times as probable as the most probable (default: the same, "
                  "else 0)")
      ->check(number(0, 1));
  command
      .add_option("--repetition-penalty", options.repetition_penalty,
                  "before all of this: divide positive and multiply negative logits of tokens in prompt and text by it "
                  "(default: the same, else 1)")
      ->check(number(1e-3, 1e3));
  command.add_option("--seed", options.seed, "same seed and options, same text (default: another one each time)");
  command.add_option("--max-tokens", options.max_tokens, "most tokens to write")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 31))
      ->capture_default_str();
  command
      .add_option("--draft", options.draft,
                  "draft tokens with the MTP module, else by looking up how the text went on before: on, off, auto (as "
                  "long as it is measured to be faster), or lookup (even with an MTP module); the text is the same")
      ->transform(CLI::CheckedTransformer(kDrafts))
      ->default_str("auto");
}

GenerateOptions generate_options(const SamplingOptions& options, const Inference& inference) {
  const HfGeneration defaults = generation_defaults(inference.path);
  GenerateOptions g;
  g.max_tokens = options.max_tokens;
  g.rule.temperature = options.temperature.value_or(static_cast<float>(defaults.temperature.value_or(kTemperature)));
  g.rule.top_p = options.top_p.value_or(static_cast<float>(defaults.top_p.value_or(kTopP)));
  g.rule.top_k = options.top_k;
  g.rule.min_p = options.min_p.value_or(static_cast<float>(defaults.min_p.value_or(0)));
  g.rule.repetition_penalty =
      options.repetition_penalty.value_or(static_cast<float>(defaults.repetition_penalty.value_or(1)));
  g.seed = options.seed ? *options.seed : std::random_device()();
  g.draft = options.draft;
  for (const int64_t id : inference.engine->config().eos_token_id) g.stop_ids.push_back(static_cast<int32_t>(id));
  for (const int64_t id : defaults.eos_token_id) g.stop_ids.push_back(static_cast<int32_t>(id));
  if (inference.tokenizer) {
    g.vocab_limit = inference.tokenizer->vocab_size();
    if (inference.tokenizer->eos_id() != Tokenizer::kNone) g.stop_ids.push_back(inference.tokenizer->eos_id());
  }
  return g;
}

HfGeneration generation_defaults(const fs::path& folder) {
  const fs::path file = folder / "generation_config.json";
  return fs::exists(file) ? parse_hf_generation(read_file(file), file.string()) : HfGeneration{};
}

std::unique_ptr<Session> open_session(const Inference& inference, Draft draft) {
  const bool by_mtp = draft == Draft::on || draft == Draft::automatic;
  return std::make_unique<Session>(*inference.engine, by_mtp && inference.engine->has_mtp());
}

std::string describe(const GenerateResult& r, Engine& engine) {
  std::string line = fmt::format(
      "prompt {} tokens in {:.2f} s ({:.0f} tokens/s), text {} tokens in {:.2f} s ({:.1f} tokens/s)", r.prompt_tokens,
      r.prompt_seconds, rate(r.prompt_tokens - r.kept_tokens, r.prompt_seconds), r.tokens, r.seconds, writing_rate(r));
  if (r.measured_slower) line += ", drafting off: measured slower";
  if (r.proposed)
    line +=
        fmt::format(", {} of {} drafts accepted ({:.0f}%)", r.accepted, r.proposed, percent(r.accepted, r.proposed));
  if (ExpertCache* cache = engine.experts()) {
    const ExpertTraffic t = cache->traffic();
    line += fmt::format(", {:.0f}% of experts found and {:.0f}% foreseen, {:.1f} GB read at {:.2f} GB/s",
                        percent(t.found, t.asked), percent(t.foreseen, t.asked), t.bytes * 1e-9, read_rate(t) * 1e-9);
  }
  if (r.finish == Finish::context_full) line += ", context full (--ctx)";
  return line;
}

void add_statistics(JsonObject& json, const GenerateResult& r, Engine& engine) {
  static const char* const kReasons[] = {"stop", "max_tokens", "context_full", "stop"};
  json.add("finish_reason", kReasons[static_cast<size_t>(r.finish)])
      .add("prompt_tokens", r.prompt_tokens)
      .add("tokens", r.tokens)
      .add("prompt_seconds", r.prompt_seconds)
      .add("seconds", r.seconds)
      .add("tokens_per_second", writing_rate(r))
      .add("draft_proposed", r.proposed)
      .add("draft_accepted", r.accepted)
      .add("draft_measured_slower", r.measured_slower);
  add_traffic(json, engine);
}

void add_traffic(JsonObject& json, Engine& engine) {
  if (!engine.experts()) return;
  const ExpertTraffic t = engine.experts()->traffic();
  json.add("experts_asked", t.asked)
      .add("experts_found", t.found)
      .add("experts_foreseen", t.foreseen)
      .add("expert_bytes_read", t.bytes)
      .add("expert_read_rate", read_rate(t))
      .add("expert_wait_seconds", t.wait_seconds);
}

InterruptGuard::InterruptGuard() {
  interrupt_flag = 0;
  struct sigaction action = {};
  action.sa_handler = sluice_on_interrupt;  // no SA_RESTART: a read of the terminal returns
  sigaction(SIGINT, &action, &before_);
}

InterruptGuard::~InterruptGuard() { sigaction(SIGINT, &before_, nullptr); }

bool InterruptGuard::interrupted() { return interrupt_flag != 0; }

void InterruptGuard::reset() { interrupt_flag = 0; }

void write_out(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    fail("standard output: cannot write");
}

}  // namespace sluice
