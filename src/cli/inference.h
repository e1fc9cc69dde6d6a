// What generate, chat and score share: a model in memory with its engine, and the options for it.
#pragma once
#include <CLI/CLI.hpp>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/generate.h"
#include "formats/hf_config.h"
#include "formats/json_lines.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

struct InferenceOptions {
  std::string model;
  int threads = 0;             // 0: all cores
  int64_t context = 0;         // 0: the model's
  int64_t cache_tokens = 0;    // room for all sequences together; 0: what cache_memory says
  uint64_t cache_memory = 0;   // room for these in so many bytes; in any case for one of `context`
  uint64_t memory = 0;         // most bytes; 0: no bound
  std::string device = "cpu";  // as parse_device(), or kAnyDevice
};

/// A GPU where there is one and the model fits, else the CPU.
constexpr const char* kAnyDevice = "auto";

/// --model, --threads, --ctx, --memory.
void add_inference_options(CLI::App& command, InferenceOptions& options);

/// --memory alone.
void add_memory_option(CLI::App& command, InferenceOptions& options);

/// --device, which is kAnyDevice unless given.
void add_device_option(CLI::App& command, InferenceOptions& options);

/// A checkpoint in the formats of its file, ready to write with.
struct Inference {
  fs::path path;                   // of the checkpoint folder or the GGUF file
  std::unique_ptr<Stream> stream;  // of the CPU
  std::unique_ptr<Stream> gpu;     // where the model runs; null: on the CPU
  std::unique_ptr<Model> model;
  std::unique_ptr<Engine> engine;
  std::optional<Tokenizer> tokenizer;  // where the checkpoint has one
  TokenizerConfig tokenizer_config;    // of the same

  /// Throws Error naming the path when there is none.
  const Tokenizer& need_tokenizer() const;
  /// `text` as ids, with a begin token first where the tokenizer wants one.
  std::vector<int32_t> encode(std::string_view text, bool parse_special) const;
};

/// `options.model` may be a checkpoint folder, the folder of a training run, whose latest checkpoint it is then, a GGUF
/// file or a folder with one. With options.memory, what is kept in memory is printed to stderr first; so is why a GPU
/// that was asked for, or that is there, is not used. Throws Error when the model does not fit on one that was asked
/// for.
Inference open_inference(const InferenceOptions& options);

/// What the checkpoint's generation_config.json says; nothing where it has none.
HfGeneration generation_defaults(const fs::path& folder);

/// What the user said about sampling; the rest is the checkpoint's (generation_config.json) or ours.
struct SamplingOptions {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  int64_t top_k = 0, max_tokens = 256;
  std::optional<uint64_t> seed;
  Draft draft = Draft::automatic;
};

/// --temperature, --top-k, --top-p, --min-p, --repetition-penalty, --seed, --max-tokens, --draft.
void add_sampling_options(CLI::App& command, SamplingOptions& options);

/// All of it resolved: a seed is drawn where none is given, end tokens come from config.json, generation_config.json
/// and the tokenizer.
GenerateOptions generate_options(const SamplingOptions& options, const Inference& inference);

/// A session that drafts with the MTP module where there is one and `draft` asks for it.
std::unique_ptr<Session> open_session(const Inference& inference, Draft draft);

/// One line about speed, drafting and a context that is full, and about what the engine has read of experts.
std::string describe(const GenerateResult& result, Engine& engine);
/// Fields of the same for --json.
void add_statistics(JsonObject& json, const GenerateResult& result, Engine& engine);
/// Fields about the experts read alone; none where memory is not bounded.
void add_traffic(JsonObject& json, Engine& engine);

/// While one lives, Ctrl-C sets a flag instead of ending the program.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  static bool interrupted();
  /// Forgets a Ctrl-C.
  static void reset();

 private:
  struct sigaction before_;
};

/// Writes to standard output at once. Throws Error when that fails.
void write_out(std::string_view text);

}  // namespace sluice
