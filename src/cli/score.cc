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
#include "cli/text_reader.h"
#include "formats/safetensors.h"
#include "ops/loss.h"

namespace sluice {
namespace {

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

/// losses[i] is that of ids[i + 1]. Writes the logits unless `writer` is null.
std::vector<float> score(Engine& engine, const std::vector<int32_t>& ids, SafetensorsWriter* writer) {
  std::vector<float> losses(ids.size());
  std::vector<int32_t> targets(ids.begin() + 1, ids.end());
  targets.push_back(-1);  // nothing follows the last token
  TextReader reader(engine, ids);
  while (const auto rows = reader.next()) {
    const Tensor& logits = rows->logits;
    if (writer) writer->write({static_cast<const std::byte*>(logits.data), logits.bytes()});
    cross_entropy_forward(engine.stream(), Tensor(losses.data() + rows->begin, {logits.rows()}), {}, logits,
                          Tensor(targets.data() + rows->begin, DType::i32, {logits.rows()}));
  }
  losses.pop_back();
  return losses;
}

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

void print_json(const Summary& summary, const std::vector<float>& losses, const std::vector<int32_t>& ids,
                Engine& engine) {
  JsonObject json;
  json.add("tokens", losses.size()).add("loss", summary.loss).add("perplexity", summary.perplexity);
  if (summary.bits_per_byte) json.add("bits_per_byte", *summary.bits_per_byte);
  json.add("ids", ids).add("token_losses", losses);
  add_traffic(json, engine);
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
  const std::vector<float> losses = score(*inference.engine, ids, writer ? &*writer : nullptr);
  if (writer) writer->commit();
  const Summary summary = summarise(losses, ids, inference);
  if (a.json)
    print_json(summary, losses, ids, *inference.engine);
  else
    print_text(summary, losses, ids, inference);
}

}  // namespace

void add_score_command(CLI::App& app) {
  const auto a = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("score", "Loss of every token of a text, perplexity and bits per byte");
  add_inference_options(*command, a->inference);
  add_device_option(*command, a->inference);
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
