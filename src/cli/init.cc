// sluice init: a random checkpoint of any shape.
#include <memory>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_source.h"
#include "model/checkpoint.h"
#include "model/size.h"
#include "train/config.h"

namespace sluice {
namespace {

struct InitOptions {
  std::string config, dtype = "bf16", out;
  uint64_t seed = 1;
  int64_t threads = 0;
};

void run_init(const InitOptions& o) {
  const Precision precision = parse_precision(o.dtype);
  const HfConfig config = parse_hf_config(read_file(o.config), o.config);
  const fs::path out = o.out;
  if (fs::exists(out) && !fs::is_empty(out)) fail("{}: expected a folder that does not exist or is empty", o.out);
  const auto bytes = static_cast<uintmax_t>(stored_bytes(config, config.num_nextn_predict_layers, precision).total());
  std::error_code error;
  fs::create_directories(out, error);
  if (error) fail("{}: expected a folder that can be made, found: {}", o.out, error.message());
  if (fs::space(out).available < bytes)
    fail("{}: the checkpoint takes {} bytes, the disk has {}", o.out, bytes, fs::space(out).available);
  Stream s(thread_count(o.threads));
  ModelWeights shapes = weight_shapes(config, config.num_nextn_predict_layers);
  write_checksums(out, save_checkpoint(s, out, config, shapes, precision, random_rows(config, o.seed)));
  fmt::print("{}: {} parameters, {} bytes\n", o.out,
             model_size(config, config.num_nextn_predict_layers).main +
                 model_size(config, config.num_nextn_predict_layers).mtp,
             bytes);
}

}  // namespace

void add_init_command(CLI::App& app) {
  auto o = std::make_shared<InitOptions>();
  CLI::App* c = app.add_subcommand("init", "Write a random checkpoint of a model shape");
  c->add_option("--config", o->config, "config.json of the shape")->required();
  c->add_option("--out", o->out, "folder to write")->required();
  c->add_option("--dtype", o->dtype, "bf16, fp8 (E4M3 with 128 x 128 scales) or f32")->capture_default_str();
  c->add_option("--seed", o->seed, "of the random numbers")->capture_default_str();
  c->add_option("--threads", o->threads, "0: all cores")->check(CLI::Range(0, 1024))->capture_default_str();
  c->footer("Example: sluice init --config configs/models/v3-1b.json --dtype fp8 --out v3-1b");
  c->callback([o] { run_init(*o); });
}

}  // namespace sluice
