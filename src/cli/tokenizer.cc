// sluice tokenizer train | encode | decode.
#include "tokenizer/tokenizer.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "cli/commands.h"
#include "convert/gguf_tokenizer.h"
#include "formats/json_lines.h"
#include "tokenizer/bpe_train.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void print_line(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
}

struct TrainOptions {
  std::vector<std::string> data;
  int32_t vocab_size = 4096;
  std::string out;
};

void train(const TrainOptions& options) {
  const auto start = Clock::now();
  BpeTrainer trainer;
  size_t bytes = 0;
  for (const std::string& path : options.data) {
    const MappedFile file(path);
    const auto text = file.bytes();
    trainer.add_text({reinterpret_cast<const char*>(text.data()), text.size()});
    bytes += text.size();
  }
  const TokenizerFile file = trainer.train(options.vocab_size);
  save_tokenizer(options.out, file, trained_tokenizer_config());
  const size_t size = file.added_tokens.back().id + size_t{1};
  fmt::print(stderr, "{}: {} tokens from {} bytes in {:.2f} s\n", options.out, size, bytes, seconds_since(start));
  if (size < static_cast<size_t>(options.vocab_size))
    fmt::print(stderr, "warning: the text has no more pairs that occur twice, so that --vocab-size {} is not reached\n",
               options.vocab_size);
}

Tokenizer open_tokenizer(const std::string& path) {
  const auto gguf = find_gguf(path);
  if (!gguf) return Tokenizer::load(path);
  const auto data = read_gguf_tokenizer(GgufFile(*gguf).metadata());
  if (!data) fail("{}: expected a tokenizer, found none", gguf->string());
  return Tokenizer(*data);
}

struct EncodeOptions {
  std::string model, file, text;
  bool json = false;
};

void encode(const EncodeOptions& options) {
  const Tokenizer tokenizer = open_tokenizer(options.model);
  const std::string text = options.file.empty() ? options.text : read_file(options.file);
  std::vector<int32_t> ids;
  const auto start = Clock::now();
  tokenizer.encode(text, true, ids);
  const double seconds = seconds_since(start);
  print_line(options.json ? JsonObject().add("ids", ids).str() : fmt::format("{}", fmt::join(ids, " ")));
  if (!options.file.empty())
    fmt::print(stderr, "{}: {} tokens of {} bytes in {:.4f} s ({:.1f} MB/s)\n", options.file, ids.size(), text.size(),
               seconds, static_cast<double>(text.size()) / seconds * 1e-6);
}

struct DecodeOptions {
  std::string model;
  std::vector<int32_t> ids;
};

void decode(const DecodeOptions& options) {
  const Tokenizer tokenizer = open_tokenizer(options.model);
  for (const int32_t id : options.ids)
    if (id < 0 || id >= tokenizer.vocab_size())
      fail("IDS: expected ids in [0, {}), found {}", tokenizer.vocab_size(), id);
  print_line(tokenizer.decode(options.ids, false));
}

void add_train(CLI::App& app) {
  const auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand("train", "Learn a byte-level BPE vocabulary from text files");
  command->add_option("--data", options->data, "UTF-8 text files")->required();
  command->add_option("--vocab-size", options->vocab_size, "number of tokens, special ones included")
      ->capture_default_str();
  command->add_option("--out", options->out, "folder for tokenizer.json and tokenizer_config.json")->required();
  command->footer("Example: sluice tokenizer train --data data/demo/austen.txt --vocab-size 4096 --out out/tokenizer");
  command->callback([options] { train(*options); });
}

void add_encode(CLI::App& app) {
  const auto options = std::make_shared<EncodeOptions>();
  CLI::App* command = app.add_subcommand(
      "encode", "Print the ids of a text; special tokens in it are recognised, and no begin token is added");
  command->add_option("--model", options->model, "folder with tokenizer.json or tiktoken.model, or GGUF file")
      ->required();
  CLI::Option* file = command->add_option("--file", options->file, "read the text from a file");
  CLI::Option* text = command->add_option("text", options->text, "the text");
  file->excludes(text);
  command->add_flag("--json", options->json, "print {\"ids\":[...]}");
  command->footer("Example: sluice tokenizer encode --model out/tokenizer 'Hello, world!'");
  command->callback([options, file, text] {
    if (file->count() + text->count() == 0) fail("tokenizer encode: expected TEXT or --file, found neither");
    encode(*options);
  });
}

void add_decode(CLI::App& app) {
  const auto options = std::make_shared<DecodeOptions>();
  CLI::App* command = app.add_subcommand("decode", "Print the text of token ids");
  command->add_option("--model", options->model, "folder with tokenizer.json or tiktoken.model, or GGUF file")
      ->required();
  command->add_option("ids", options->ids, "token ids")->required();
  command->footer("Example: sluice tokenizer decode --model out/tokenizer 41 268 14");
  command->callback([options] { decode(*options); });
}

}  // namespace

void add_tokenizer_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("tokenizer", "Train a tokenizer; text to token ids and back");
  command->require_subcommand(1);
  command->footer("Example: sluice tokenizer train --data data/demo/austen.txt --vocab-size 4096 --out out/tokenizer");
  add_train(*command);
  add_encode(*command);
  add_decode(*command);
}

}  // namespace sluice
