// sluice data pack | info.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "data/pack.h"
#include "formats/json_lines.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

struct PackArguments {
  std::vector<std::string> data, eval;
  std::string model, out, split_at;
  PackOptions options;
};

/// A line on the terminal that is written over; nothing where stderr is a file.
void show_progress(PackOptions& options) {
  if (!isatty(STDERR_FILENO)) return;
  options.progress = [last = Clock::time_point()](int64_t done, int64_t total) mutable {
    const auto now = Clock::now();
    if (done < total && now - last < std::chrono::milliseconds(200)) return;
    last = now;
    fmt::print(stderr, "\rpacking: {:.0f} of {:.0f} MB{}", static_cast<double>(done) / 1e6,
               static_cast<double>(total) / 1e6, done < total ? "" : "\n");
  };
}

void pack(PackArguments& arguments, bool split) {
  const auto start = Clock::now();
  if (split) arguments.options.split_at = arguments.split_at;
  show_progress(arguments.options);
  const Tokenizer tokenizer = Tokenizer::load(arguments.model);
  const PackFiles files{.train = find_data_files(arguments.data), .eval = find_data_files(arguments.eval)};
  const FolderSummary summary = pack_to_folder(files, tokenizer, arguments.options, arguments.out);
  fmt::print("train: {}\n", format_summary(summary.train));
  if (!files.eval.empty()) fmt::print("eval: {}\n", format_summary(summary.eval));
  fmt::print("{}: packed in {:.1f} s\n", arguments.out, std::chrono::duration<double>(Clock::now() - start).count());
}

struct InfoArguments {
  std::string folder;
  bool json = false;
};

JsonObject describe(const std::string& split, const TokenSet& set) {
  return JsonObject()
      .add("split", split)
      .add("tokens", set.tokens())
      .add("target_tokens", set.target_tokens())
      .add("documents", set.documents())
      .add("chats", set.isolated_documents())
      .add("text_bytes", set.info().text_bytes)
      .add("vocab", set.info().vocab)
      .add("tokenizer", fmt::format("{:016x}", set.info().tokenizer))
      .add("shards", set.shards())
      .add("bytes_per_token", set.token_bytes())
      .add("fingerprint", fmt::format("{:08x}", set.fingerprint()));
}

/// Opens and verifies every split of the folder, and prints one line for each.
void info(const InfoArguments& arguments) {
  bool found = false;
  for (const std::string split : {"train", "eval"}) {
    if (!TokenSet::exists(arguments.folder, split)) continue;
    found = true;
    const TokenSet set = TokenSet::open(arguments.folder, split);
    set.verify();
    if (arguments.json) {
      fmt::print("{}\n", describe(split, set).str());
      continue;
    }
    fmt::print(
        "{}: {} tokens ({} in the loss) of {} documents, {} of them chats; {} bytes of text; vocabulary {}; "
        "{} shards, {} bytes a token; checksums agree\n",
        split, set.tokens(), set.target_tokens(), set.documents(), set.isolated_documents(), set.info().text_bytes,
        set.info().vocab, set.shards(), set.token_bytes());
  }
  if (!found) fail("{}: expected packed data (train-00000.tokens), found none", arguments.folder);
}

}  // namespace

void add_data_command(CLI::App& app) {
  CLI::App* data = app.add_subcommand("data", "Pack text into training data");
  data->require_subcommand(1);

  auto p = std::make_shared<PackArguments>();
  p->options.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  CLI::App* pack_command = data->add_subcommand("pack", "Tokenise files into memory-mapped shards");
  pack_command
      ->add_option("--data", p->data, "Files, folders or globs: text, .jsonl of text or chat messages, .gz, .zst")
      ->required();
  pack_command->add_option("--eval", p->eval, "Held-out files, packed apart");
  pack_command->add_option("--model", p->model, "Folder with tokenizer.json")->required();
  pack_command->add_option("--out", p->out, "New folder")->required();
  pack_command->add_option("--fim-rate", p->options.fim_rate, "Share of documents for fill-in-the-middle (V3: 0.1)");
  pack_command->add_option("--seed", p->options.seed, "Seed of fill-in-the-middle");
  pack_command->add_option("--threads", p->options.threads, "Threads")->check(CLI::Range(1, 1024));
  CLI::Option* split =
      pack_command->add_option("--split-at", p->split_at, "A line that ends a document of plain text; '': empty lines");
  pack_command->footer("Example: sluice data pack --data 'books/*.txt.zst' --model out/model --out out/packed");
  pack_command->callback([p, split] { pack(*p, split->count() > 0); });

  auto i = std::make_shared<InfoArguments>();
  CLI::App* info_command = data->add_subcommand("info", "Verify packed data and say what it holds");
  info_command->add_option("folder", i->folder, "Folder that `data pack` wrote")->required();
  info_command->add_flag("--json", i->json, "One JSON object per split");
  info_command->footer("Example: sluice data info out/packed --json");
  info_command->callback([i] { info(*i); });
}

}  // namespace sluice
