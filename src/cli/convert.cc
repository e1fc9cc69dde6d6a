// sluice convert: a checkpoint in the other layout.
#include <memory>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_source.h"
#include "cli/write_model.h"

namespace sluice {
namespace {

struct ConvertOptions {
  std::string model, out;
  int64_t threads = 0;
};

void run_convert(const ConvertOptions& o) {
  const CheckpointSource source = open_checkpoint(o.model);
  Stream s(thread_count(o.threads));
  if (!is_gguf_name(o.out)) return write_folder(s, "convert", o.out, source, source.precision);
  const Format format = source.precision == Precision::f32 ? Format::f32 : Format::bf16;
  write_gguf_file(s, "convert", o.out, {source.config, source.tokenizer}, format,
                  rounded_rows(source.config, source.rows, nullptr));
}

}  // namespace

void add_convert_command(CLI::App& app) {
  auto o = std::make_shared<ConvertOptions>();
  CLI::App* c = app.add_subcommand("convert", "Write a model as a Hugging Face folder or as a GGUF file");
  c->add_option("model", o->model, "checkpoint folder, training run or GGUF file")->required();
  c->add_option("--out", o->out,
                "a name that ends in .gguf, or the folder to write. Float32 stays float32, the rest becomes bfloat16")
      ->required();
  c->add_option("--threads", o->threads, "0: all cores")->check(CLI::Range(0, 1024))->capture_default_str();
  c->footer("Example: sluice convert model-q4_k.gguf --out model");
  c->callback([o] { run_convert(*o); });
}

}  // namespace sluice
