// sluice generate: continues a text.
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "chat/text_stream.h"
#include "cli/commands.h"
#include "cli/inference.h"
#include "cli/ranks.h"
#include "cli/shared_experts.h"

namespace sluice {
namespace {

struct Arguments {
  InferenceOptions inference;
  SamplingOptions sampling;
  std::string prompt, file, placement;
  std::vector<int32_t> ids;
  std::vector<std::string> stops;
  bool json = false;
};

std::vector<int32_t> prompt_ids(const Arguments& a, const Inference& inference) {
  if (!a.ids.empty()) return a.ids;
  std::vector<int32_t> ids = inference.encode(a.file.empty() ? a.prompt : read_file(a.file), true);
  if (ids.empty()) fail("prompt: expected at least one token (the tokenizer has no begin token to start from)");
  return ids;
}

/// Receives tokens; prints them as text, or as ids where there is no tokenizer.
class Output {
 public:
  Output(const Inference& inference, const std::vector<std::string>& stops, bool print) : print_(print) {
    if (inference.tokenizer) text_stream_.emplace(*inference.tokenizer, stops);
  }
  bool push(int32_t id) {
    ids_.push_back(id);
    put(text_stream_ ? text_stream_->push(id) : fmt::format("{}{}", ids_.size() > 1 ? " " : "", id));
    return !(text_stream_ && text_stream_->stopped()) && !InterruptGuard::interrupted();
  }
  void finish() {
    if (text_stream_) put(text_stream_->finish());
    if (print_) write_out("\n");
  }
  bool has_text() const { return text_stream_.has_value(); }
  const std::string& text() const { return text_; }
  const std::vector<int32_t>& ids() const { return ids_; }

 private:
  void put(const std::string& text) {
    text_ += text;
    if (print_) write_out(text);
  }

  std::optional<TextStream> text_stream_;
  bool print_;
  std::string text_;
  std::vector<int32_t> ids_;
};

void run(Arguments& a) {
  const std::unique_ptr<Communicator> ranks = open_ranks();
  const bool is_first = ranks->rank() == 0;
  prepare_for_ranks(*ranks, a.inference, a.sampling);
  const Inference inference = open_inference(a.inference);
  if (!a.stops.empty()) inference.need_tokenizer();
  const auto shared = share_experts(*ranks, inference, a.placement);
  GenerateOptions options = generate_options(a.sampling, inference);
  options.seed = static_cast<uint64_t>(agree(*ranks, static_cast<int64_t>(options.seed)));
  const auto session = open_session(inference, a.sampling.draft);
  Output output(inference, a.stops, !a.json && is_first);
  const InterruptGuard guard;
  const GenerateResult result = generate(*session, prompt_ids(a, inference), options,
                                         [&](int32_t id) { return agree(*ranks, output.push(id)) != 0; });
  output.finish();
  if (!is_first) return;
  if (a.json) {
    JsonObject json;
    if (output.has_text()) json.add("text", output.text());
    json.add("ids", output.ids()).add("seed", options.seed);
    add_statistics(json, result, *inference.engine);
    write_out(json.str() + "\n");
  } else {
    fmt::print(stderr, "{}, seed {}\n", describe(result, *inference.engine), options.seed);
  }
}

}  // namespace

void add_generate_command(CLI::App& app) {
  const auto a = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text");
  add_inference_options(*command, a->inference);
  add_device_option(*command, a->inference);
  CLI::Option* prompt = command->add_option("--prompt", a->prompt, "text to continue; special tokens are recognised");
  CLI::Option* file = command->add_option("--file", a->file, "the same, from a file")->excludes(prompt);
  command->add_option("--ids", a->ids, "token ids to continue, as 1,2,3")
      ->delimiter(',')
      ->excludes(prompt)
      ->excludes(file);
  add_sampling_options(*command, a->sampling);
  command->add_option("--placement", a->placement,
                      "with several ranks (mpirun): where experts lie, as `sluice balance --gpus RANKS --out` wrote it "
                      "(default: in order)");
  command->add_option("--stop", a->stops, "end before this string; may be given several times")->take_all();
  command->add_flag("--json", a->json, "print one JSON object at the end");
  command->footer(
      "A prompt that is longer than the context (--ctx) is an error. A text ends where the context is full; the last\n"
      "line says so, and --json's finish_reason is stop, max_tokens or context_full.\n\n"
      "Example: sluice generate --model out/demo --prompt 'She was' --max-tokens 100 --seed 1");
  command->callback([a] { run(*a); });
}

}  // namespace sluice
