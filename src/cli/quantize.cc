// sluice quantize: a checkpoint in fewer bits.
#include <memory>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_source.h"
#include "cli/write_model.h"

namespace sluice {
namespace {

struct QuantizeOptions {
  std::string model, type, out, imatrix;
  int64_t threads = 0;
};

void run_quantize(const QuantizeOptions& o) {
  const bool is_fp8 = o.type == "fp8";
  if (!is_fp8) checked_format(o.type);
  if (is_fp8 == is_gguf_name(o.out))
    fail("--out: expected a {} for --type {}, found {:?}", is_fp8 ? "folder" : "name that ends in .gguf", o.type,
         o.out);
  if (is_fp8 && !o.imatrix.empty()) fail("--imatrix: expected a type of GGUF files with it, found fp8");
  const CheckpointSource source = open_checkpoint(o.model);
  Stream s(thread_count(o.threads));
  if (is_fp8) return write_folder(s, "quantize", o.out, source, Precision::fp8);
  Importance importance;
  if (!o.imatrix.empty()) importance = load_importance(o.imatrix);
  write_gguf_file(s, "quantize", o.out, {source.config, source.tokenizer}, checked_format(o.type),
                  rounded_rows(source.config, source.rows, o.imatrix.empty() ? nullptr : &importance));
}

}  // namespace

void add_quantize_command(CLI::App& app) {
  auto o = std::make_shared<QuantizeOptions>();
  CLI::App* c = app.add_subcommand("quantize", "Write a model in fewer bits, as a GGUF file or in FP8");
  c->add_option("model", o->model, "checkpoint folder, training run or GGUF file")->required();
  c->add_option(
       "--type", o->type,
       "of the matrices: " + format_names() +
           "; or fp8, a folder of E4M3 with 128 x 128 scales. Rows that are no whole number of blocks of 256 get "
           "the next type with blocks of 32, router and norms stay float32, the head has at least six bits")
      ->required();
  c->add_option("--out", o->out, "GGUF file, for fp8 the folder to write")->required();
  c->add_option("--imatrix", o->imatrix, "which inputs matter most, from sluice imatrix or another tool's GGUF file");
  c->add_option("--threads", o->threads, "0: all cores")->check(CLI::Range(0, 1024))->capture_default_str();
  c->footer("Example: sluice quantize out/demo --type q4_k --out demo-q4_k.gguf");
  c->callback([o] { run_quantize(*o); });
}

}  // namespace sluice
