// sluice bench train: training steps against what the matrix library reaches alone in the same run.
#include <algorithm>
#include <memory>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "base/transfer.h"
#include "cli/bench.h"
#include "cli/bench_profile.h"
#include "cli/model_source.h"
#include "formats/json_lines.h"
#include "model/checkpoint.h"
#include "model/size.h"
#include "ops/elementwise.h"
#include "ops/gemm_peak.h"
#include "train/batch.h"
#include "train/config.h"
#include "train/memory.h"
#include "train/metrics.h"
#include "train/optimizer.h"

namespace sluice {
namespace {

struct BenchOptions {
  std::string size = "tiny", model, precision = "f32";
  int64_t seq_len = 256, batch_size = 16, micro_batch = 8, vocab_size = 4096, threads = 0, runs = 7;
  std::string device = "cpu";
  bool json = false, profile = false;
};

/// A training step on random tokens, with everything a real one does.
class BenchStep {
 public:
  BenchStep(Stream& host, Stream& s, const BenchOptions& o) : s_(s), options_(o) {
    config_.seq_len = o.seq_len;
    config_.batch_size = o.batch_size;
    config_.micro_batch = o.micro_batch;
    HfConfig c =
        o.model.empty() ? builtin_model(o.size, o.vocab_size, o.seq_len) : parse_hf_config(read_file(o.model), o.model);
    if (o.model.empty()) c.num_nextn_predict_layers = 1;
    const Precision precision = parse_precision(o.precision);
    const size_t activations = activation_bytes(c, config_, precision, s.device());
    check_memory(c, config_, precision, activations, s.device());
    model_ = allocate_model(c, c.num_nextn_predict_layers, precision);
    fill_model(host, model_, random_rows(c, 1));
    if (s.is_cuda()) model_ = upload_model(s, model_);
    optimizer_ = std::make_unique<Optimizer>(s, model_, OptimizerOptions{.sets_gradients = true});
    arena_ = Arena(activations, s.device());
    if (const int64_t routers = num_routers(model_.weights); routers > 0)
      counts_LE_ = arena_.alloc(DType::i64, {routers, c.n_routed_experts});
    batch_.rows = o.batch_size;
    batch_.cols = o.seq_len + 1;
    Rng rng(1);
    for (int64_t i = 0; i < batch_.rows * batch_.cols; ++i)
      batch_.ids.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(c.vocab_size))));
    batch_.first.assign(batch_.ids.size(), 0);
    batch_.loss.assign(batch_.ids.size(), 1);
  }

  void run() {
    PassOptions o;
    o.loss_scale = 1 / static_cast<float>(batch_.rows * options_.seq_len);
    o.mtp_weight = 0.3f;
    o.balance_alpha = 1e-4f;
    if (counts_LE_) zero(s_, counts_LE_);
    for (int64_t begin = 0; begin < batch_.rows; begin += options_.micro_batch) {
      o.gradients = begin == 0 ? Out::set : Out::add;
      const size_t mark = arena_.mark();
      const ModelBatch b =
          device_batch(s_, arena_, batch_, begin, std::min(options_.micro_batch, batch_.rows - begin), mtp());
      model_forward_backward(s_, arena_, model_, optimizer_->grad(), b, o, counts_LE_);
      arena_.release(mark);
    }
    optimizer_->step(s_, 1e-4f, optimizer_->grad_norm(s_));
    s_.synchronize();
  }

  double flops() const {
    return training_flops_per_token(model_.config, mtp(), options_.seq_len) *
           static_cast<double>(batch_.rows * options_.seq_len);
  }
  /// How far the busiest expert is above the mean in the last step (MaxVio); 0 without experts.
  double imbalance() {
    if (!counts_LE_) return 0;
    const int64_t E = counts_LE_.cols();
    std::vector<std::vector<int64_t>> load;
    for (int64_t l = 0; l < counts_LE_.rows(); ++l) {
      load.emplace_back(static_cast<size_t>(E));
      download(s_, Tensor(load.back().data(), DType::i64, {1, E}), counts_LE_.slice_rows(l, 1));
    }
    return max_vio(load);
  }
  int64_t mtp() const { return static_cast<int64_t>(model_.weights.mtp.size()); }

 private:
  Stream& s_;
  const BenchOptions& options_;
  TrainConfig config_;
  Model model_;
  std::unique_ptr<Optimizer> optimizer_;
  Arena arena_{0};
  Batch batch_;
  Tensor counts_LE_;
};

std::string describe(const BenchOptions& o, double flops, double tokens) {
  return fmt::format("training {} {}, {} x {} tokens a step: {:.1f} GFLOP/s, {:.0f} tokens/s",
                     o.model.empty() ? o.size : o.model, o.precision, o.batch_size, o.seq_len, flops * 1e-9, tokens);
}

/// On a GPU: speed alone.
void bench_gpu_train(Stream& host, Stream& gpu, const BenchOptions& o) {
  BenchStep step(host, gpu, o);
  step.run();
  std::vector<double> train;
  for (int64_t i = 0; i < o.runs; ++i) train.push_back(step.flops() / seconds_of([&] { step.run(); }));
  const double speed = median(train);
  const double tokens = speed / step.flops() * static_cast<double>(o.batch_size * o.seq_len);
  if (o.json) {
    JsonObject j;
    j.add("device", device_text(gpu.device())).add("train_flops", speed).add("tokens_per_second", tokens);
    fmt::print("{}\n", j.str());
  } else {
    fmt::print("{}, MaxVio {:.2f}\n", describe(o, speed, tokens), step.imbalance());
  }
  if (o.profile) print_profile(gpu, [&] { step.run(); });
}

void bench_train(const BenchOptions& o) {
  Stream s(thread_count(o.threads));
  if (const Device device = parse_device(o.device); device.is_cuda()) {
    Stream gpu(device, 1);
    return bench_gpu_train(s, gpu, o);
  }
  BenchStep step(s, s, o);
  step.run();
  std::vector<double> gemm, train;
  for (int64_t i = 0; i < o.runs; ++i) {  // in turn, because the machine's speed drifts
    gemm.push_back(gemm_peak_flops(s.threads()));
    train.push_back(step.flops() / seconds_of([&] { step.run(); }));
  }
  const double peak = median(gemm), speed = median(train);
  const double tokens = speed / step.flops() * static_cast<double>(o.batch_size * o.seq_len);
  if (o.json) {
    JsonObject j;
    j.add("gemm", gemm_library()).add("threads", s.threads()).add("gemm_flops", peak).add("train_flops", speed);
    j.add("ratio", speed / peak).add("tokens_per_second", tokens);
    fmt::print("{}\n", j.str());
    return;
  }
  fmt::print("library  {} , {} threads, 1024 x 1024 x 1024: {:.1f} GFLOP/s\n", gemm_library(), s.threads(),
             peak * 1e-9);
  fmt::print("{}\n", describe(o, speed, tokens));
  fmt::print("ratio    {:.1f}% (medians of {} runs in turn; FLOPs = 6 x active matmul parameters + causal attention)\n",
             100 * speed / peak, o.runs);
  if (o.profile) print_profile(s, [&] { step.run(); });
}

}  // namespace

void add_bench_train_command(CLI::App& bench) {
  auto o = std::make_shared<BenchOptions>();
  CLI::App* c = bench.add_subcommand("train", "Training steps against the float32 GEMM library alone");
  const CLI::Range size(int64_t{2}, int64_t{1} << 24), count(int64_t{1}, int64_t{1} << 24);
  c->add_option("--size", o->size, "tiny, small or medium")->capture_default_str();
  c->add_option("--model", o->model, "config.json of another shape");
  c->add_option("--precision", o->precision, "f32, bf16 or fp8")->capture_default_str();
  c->add_option("--vocab-size", o->vocab_size, "of the built-in shapes")->capture_default_str()->check(size);
  c->add_option("--seq-len", o->seq_len, "tokens of a sequence")->capture_default_str()->check(size);
  c->add_option("--batch-size", o->batch_size, "sequences of a step")->capture_default_str()->check(count);
  c->add_option("--micro-batch", o->micro_batch, "sequences at once")->capture_default_str()->check(count);
  c->add_option("--device", o->device, "cpu, cuda or cuda:N")->capture_default_str();
  c->add_option("--threads", o->threads, "0: all cores")->capture_default_str()->check(CLI::Range(0, 1024));
  c->add_option("--runs", o->runs, "measurements of each")->capture_default_str()->check(CLI::Range(1, 1000));
  c->add_flag("--profile", o->profile, "one more step, and the time of each kind of op in it");
  c->add_flag("--json", o->json, "one JSON object")->excludes("--profile");
  c->footer("Example: sluice bench train --size tiny");
  c->callback([o] { bench_train(*o); });
}

}  // namespace sluice
