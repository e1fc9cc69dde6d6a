// sluice init: a random checkpoint of any shape.
#include <memory>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_source.h"
#include "cli/write_model.h"

namespace sluice {
namespace {

struct InitOptions {
  std::string config, type = "bf16", out, tokenizer;
  uint64_t seed = 1;
  int64_t threads = 0;
};

void run_init(const InitOptions& o) {
  CheckpointSource source;
  source.config = parse_hf_config(read_file(o.config), o.config);
  source.rows = random_rows(source.config, o.seed);
  source.path = o.tokenizer;
  if (!o.tokenizer.empty()) source.tokenizer = load_tokenizer(o.tokenizer);
  Stream s(thread_count(o.threads));
  if (!is_gguf_name(o.out)) return write_folder(s, "init", o.out, source, checked_precision(o.type));
  write_gguf_file(s, "init", o.out, {source.config, source.tokenizer}, checked_format(o.type),
                  random_encoder(source.config, o.seed));
}

}  // namespace

void add_init_command(CLI::App& app) {
  auto o = std::make_shared<InitOptions>();
  CLI::App* c = app.add_subcommand("init", "Write a random checkpoint of a model shape");
  c->add_option("--config", o->config, "config.json of the shape")->required();
  c->add_option("--out", o->out, "folder to write, or a name that ends in .gguf")->required();
  c->add_option("--type", o->type, "f32, bf16 or fp8 (E4M3 with 128 x 128 scales); of a GGUF file " + format_names())
      ->capture_default_str();
  c->add_option("--tokenizer", o->tokenizer, "folder with the tokenizer that goes with it");
  c->add_option("--seed", o->seed, "of the random numbers")->capture_default_str();
  c->add_option("--threads", o->threads, "0: all cores")->check(CLI::Range(0, 1024))->capture_default_str();
  c->footer("Example: sluice init --config configs/models/v3-1b.json --type q4_k --out v3-1b-q4_k.gguf");
  c->callback([o] { run_init(*o); });
}

}  // namespace sluice
