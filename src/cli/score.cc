// sluice score: how well a model predicts a text.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/inference.h"
#include "formats/safetensors.h"
#include "ops/loss.h"

namespace sluice {
namespace {

constexpr int64_t kRows = 256;  // logits in memory at once

struct Arguments {
  InferenceOptions inference;
  std::string file, text, logits;
  std::vector<int32_t> ids;
  bool json = false;
};

std::vector<int32_t> input_ids(const Arguments& a, const Inference& inference) {
  std::vector<int32_t> ids = a.ids;
  if (ids.empty()) ids = inference.encode(a.file.empty() ? a.text : read_file(a.file), false);
  if (ids.size() < 2 && a.logits.empty()) fail("text: expected at least 2 tokens to score, found {}", ids.size());
  if (ids.empty()) fail("text: expected at least 1 token");
  return ids;
}

/// Scores ids; losses[i] is that of ids[i + 1].
class Scorer {
 public:
  Scorer(const Inference& inference, const std::vector<int32_t>& ids, SafetensorsWriter* logits)
      : engine_(*inference.engine), session_(engine_, false), ids_(ids), writer_(logits) {}

  std::vector<float> run() {
    // A text longer than the context is read in windows that begin half a context apart, so that every token after the
    // first window is predicted from at least half a context.
    const int64_t context = engine_.context(), n = static_cast<int64_t>(ids_.size());
    losses_.resize(ids_.size());
    int64_t scored = 0;
    for (int64_t begin = 0; scored < n; begin += std::max<int64_t>(1, context / 2)) {
      session_.truncate(0);
      const int64_t end = std::min(n, begin + context);
      if (scored > begin) session_.feed(tokens(begin, scored - begin), 0);
      for (; scored < end; scored += kRows) score_rows(scored, std::min(kRows, end - scored));
      scored = end;
    }
    losses_.pop_back();  // nothing follows the last token
    return std::move(losses_);
  }

 private:
  std::span<const int32_t> tokens(int64_t begin, int64_t n) const {
    return std::span(ids_).subspan(static_cast<size_t>(begin), static_cast<size_t>(n));
  }

  void score_rows(int64_t begin, int64_t n) {
    const Tensor logits = session_.feed(tokens(begin, n), n);
    if (writer_) writer_->write({static_cast<const std::byte*>(logits.data), logits.bytes()});
    std::vector<int32_t> targets(static_cast<size_t>(n), -1);
    for (size_t i = 0; i < targets.size() && static_cast<size_t>(begin) + i + 1 < ids_.size(); ++i)
      targets[i] = ids_[static_cast<size_t>(begin) + i + 1];
    cross_entropy_forward(engine_.stream(), Tensor(losses_.data() + begin, {n}), {}, logits,
                          Tensor(targets.data(), DType::i32, {n}));
  }

  Engine& engine_;
  Session session_;
  const std::vector<int32_t>& ids_;
  SafetensorsWriter* writer_;
  std::vector<float> losses_;
};

struct Summary {
  double loss = 0, perplexity = 0;
  std::optional<double> bits_per_byte;
};

Summary summarise(const std::vector<float>& losses, const std::vector<int32_t>& ids, const Inference& inference) {
  Summary s;
  if (losses.empty()) return s;
  double total = 0;
  size_t bytes = 0;
  for (size_t i = 0; i < losses.size(); ++i) {
    total += static_cast<double>(losses[i]);
    if (inference.tokenizer) bytes += inference.tokenizer->token_bytes(ids[i + 1]).size();
  }
  s.loss = total / static_cast<double>(losses.size());
  s.perplexity = std::exp(s.loss);
  if (bytes) s.bits_per_byte = total / std::log(2.0) / static_cast<double>(bytes);
  return s;
}

void print_json(const Summary& summary, const std::vector<float>& losses, const std::vector<int32_t>& ids) {
  JsonObject json;
  json.add("tokens", losses.size()).add("loss", summary.loss).add("perplexity", summary.perplexity);
  if (summary.bits_per_byte) json.add("bits_per_byte", *summary.bits_per_byte);
  json.add("ids", ids).add("token_losses", losses);
  write_out(json.str() + "\n");
}

void print_text(const Summary& summary, const std::vector<float>& losses, const std::vector<int32_t>& ids,
                const Inference& inference) {
  std::string lines;
  for (size_t i = 0; i < losses.size(); ++i) {
    fmt::format_to(std::back_inserter(lines), "{:6} {:7} {:9.5f} ", i + 1, ids[i + 1], losses[i]);
    if (inference.tokenizer) append_json(lines, inference.tokenizer->token_bytes(ids[i + 1]));
    lines += '\n';
  }
  lines +=
      fmt::format("{} tokens, loss {:.5f} nats, perplexity {:.4f}", losses.size(), summary.loss, summary.perplexity);
  if (summary.bits_per_byte) lines += fmt::format(", {:.4f} bits per byte", *summary.bits_per_byte);
  write_out(lines + "\n");
}

void run(const Arguments& a) {
  const Inference inference = open_inference(a.inference);
  const std::vector<int32_t> ids = input_ids(a, inference);
  const int64_t T = static_cast<int64_t>(ids.size()), V = inference.engine->config().vocab_size;
  for (const int32_t id : ids)
    if (id < 0 || id >= V) fail("token ids: expected 0 to {} (vocab_size), found {}", V - 1, id);
  std::optional<SafetensorsWriter> writer;
  if (!a.logits.empty()) {
    if (T > inference.engine->context())
      fail("--logits: expected at most {} tokens (the context), found {}", inference.engine->context(), T);
    writer.emplace(a.logits, std::vector<SafetensorsSpec>{{"logits", StDType::f32, {T, V}}});
  }
  const std::vector<float> losses = Scorer(inference, ids, writer ? &*writer : nullptr).run();
  if (writer) writer->commit();
  const Summary summary = summarise(losses, ids, inference);
  if (a.json)
    print_json(summary, losses, ids);
  else
    print_text(summary, losses, ids, inference);
}

}  // namespace

void add_score_command(CLI::App& app) {
  const auto a = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("score", "Loss of every token of a text, perplexity and bits per byte");
  add_inference_options(*command, a->inference);
  CLI::Option* text = command->add_option("--text", a->text, "the text");
  CLI::Option* file = command->add_option("--file", a->file, "the text, from a file")->excludes(text);
  CLI::Option* ids = command->add_option("--ids", a->ids, "token ids, as 0,5,34")->delimiter(',');
  ids->excludes(text)->excludes(file);
  command->add_option("--logits", a->logits, "write float32 `logits` (tokens x vocabulary) to this safetensors file");
  command->add_flag("--json", a->json, "print one JSON object");
  command->footer("Example: sluice score --model out/demo --text 'She was only Anne.'");
  command->callback([a, text, file, ids] {
    if (text->count() + file->count() + ids->count() == 0) fail("score: expected --text, --file or --ids");
    run(*a);
  });
}

}  // namespace sluice
