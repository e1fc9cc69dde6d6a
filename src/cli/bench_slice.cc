// sluice bench slice: what one GPU of the published 2048-GPU run of DeepSeek-V3 has to do, without the network: four
// MoE layers at full width, of whose experts it holds a few, which get the rows that they would get from all ranks.
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/transfer.h"
#include "cli/bench.h"
#include "cli/bench_profile.h"
#include "cli/model_source.h"
#include "formats/json_lines.h"
#include "model/checkpoint.h"
#include "model/size.h"
#include "model/stage.h"
#include "ops/elementwise.h"
#include "ops/moe.h"
#include "train/memory.h"
#include "train/optimizer.h"

namespace sluice {
namespace {

constexpr StageRange kLayers{1, 5};  // between layers without weights, which are not computed

struct Options {
  std::string model = "configs/models/deepseek-v3-671b.json", precision = "fp8", device = "cuda";
  int64_t seq_len = 4096, batch_size = 32, micro_batch = 1, experts = 4, runs = 3;
  bool recompute = false, json = false, profile = false;
};

/// The model with kLayers alone, `experts` of each layer's.
Model slice_shapes(const Options& o) {
  Model m;
  m.config = parse_hf_config(read_file(o.model), o.model);
  m.config.num_hidden_layers = kLayers.end + 1;
  m.config.first_k_dense_replace = 0;
  m.config.num_nextn_predict_layers = 0;
  m.config.vocab_size = 64;
  if (m.config.n_routed_experts == 0 || m.config.n_routed_experts % o.experts != 0)
    fail("experts: expected a divisor of the {} routed experts, found {}", m.config.n_routed_experts, o.experts);
  if (o.batch_size % o.micro_batch != 0)
    fail("micro-batch: expected a divisor of the batch size {}, found {}", o.batch_size, o.micro_batch);
  m.precision = parse_precision(o.precision);
  m.weights = weight_shapes(m.config, 0);
  m.weights.layers.front() = m.weights.layers.back() = BlockWeights();
  for (int64_t l = kLayers.begin; l < kLayers.end; ++l) {
    MoeWeights& moe = m.weights.layers[static_cast<size_t>(l)].moe;
    for (std::vector<Matrix>* bank : {&moe.gate, &moe.up, &moe.down}) bank->resize(static_cast<size_t>(o.experts));
  }
  return m;
}

class Slice {
 public:
  Slice(Stream& host, Stream& s, const Options& o) : s_(s), options_(o), model_(slice_shapes(o)) {
    const size_t activations = count_activations();
    model_ = allocate_like(model_, model_.precision, Device());
    fill_model(host, model_, random_rows(model_.config, 1));
    model_ = upload_model(s, model_);
    optimizer_ = std::make_unique<Optimizer>(s, model_, OptimizerOptions{.sets_gradients = true});
    arena_ = Arena(activations, s.device());
    const int64_t T = o.micro_batch * o.seq_len, E = model_.config.n_routed_experts;
    ids_T_ = arena_.alloc(DType::i32, {T});
    hidden_TD_ = random_rows_of(T);
    gradient_TD_ = random_rows_of(T);
    counts_LE_ = arena_.alloc(DType::i64, {kLayers.end - kLayers.begin, E});
  }

  void run() {
    zero(s_, counts_LE_);
    for (int64_t begin = 0; begin < options_.batch_size; begin += options_.micro_batch) {
      const size_t mark = arena_.mark();
      StageSaved k = saved(ids_T_);
      k.hidden = {hidden_TD_};
      k.options.gradients = begin == 0 ? Out::set : Out::add;
      pass(s_, arena_, k, optimizer_->grad(), counts_LE_);
      arena_.release(mark);
    }
    // Weights stay: following random gradients, routers would soon send all rows to one expert.
    optimizer_->step(s_, 0.0f, optimizer_->grad_norm(s_));
    for (int64_t l = kLayers.begin; l < kLayers.end; ++l) {
      const MoeWeights& moe = model_.weights.layers[static_cast<size_t>(l)].moe;
      moe_bias_update(s_, moe.bias.tensor(), counts_LE_.slice_rows(l - kLayers.begin, 1), 1e-3f);
    }
    s_.synchronize();
  }

  double tokens() const { return static_cast<double>(options_.batch_size * options_.seq_len); }
  /// Of a token through all layers: 6 per weight that it meets, and causal attention.
  double flops_per_token() const {
    HfConfig c = model_.config;
    c.vocab_size = 0;
    c.num_hidden_layers = kLayers.end - kLayers.begin;
    return training_flops_per_token(c, 0, options_.seq_len);
  }
  /// Rows of each expert here, of the first layer of the last step.
  std::vector<int64_t> load() {
    const int64_t E = model_.config.n_routed_experts, group = E / options_.experts;
    std::vector<int64_t> counts(static_cast<size_t>(E)), load(static_cast<size_t>(options_.experts));
    download(s_, Tensor(counts.data(), DType::i64, {1, E}), counts_LE_.slice_rows(0, 1));
    for (int64_t e = 0; e < E; ++e) load[static_cast<size_t>(e / group)] += counts[static_cast<size_t>(e)];
    return load;
  }

 private:
  StageSaved saved(const Tensor& ids_T) const {
    PassOptions o;
    o.balance_alpha = 1e-4f;
    o.recompute = options_.recompute;
    return {ModelBatch{options_.micro_batch, options_.seq_len, ids_T, {}, ids_T, {}}, o};
  }

  void pass(Stream& s, Arena& a, StageSaved& k, const ModelWeights& grad, const Tensor& counts_LE) {
    for (int phase = 0; phase < stage_forward_phases(model_, kLayers); ++phase)
      stage_forward_phase(s, a, model_, kLayers, counts_LE, k, phase);
    k.dh_TD = a.alloc(gradient_TD_.dtype, {gradient_TD_.rows(), gradient_TD_.cols()});
    copy(s, k.dh_TD, gradient_TD_);  // the pass writes over it
    for (int phase = 0; phase < stage_backward_phases(model_, kLayers); ++phase)
      stage_backward_phase(s, a, model_, {grad, Weights::now}, kLayers, k, phase);
  }

  size_t count_activations() {
    constexpr size_t kSlack = size_t{64} << 20;
    Stream dry = Stream::dry();
    Arena weights = Arena::counting(), a = Arena::counting(s_.device());
    ModelWeights grad = shapes_of(model_.weights);
    for (const Param& p : parameters(model_.weights))
      allocate(*p.matrix, working_format(p.kind, model_.precision), weights);
    for (const Param& p : parameters(grad)) allocate(*p.matrix, Format::f32, weights);
    const int64_t T = options_.micro_batch * options_.seq_len, D = model_.config.hidden_size;
    const DType dtype = activation_dtype(model_.precision);
    StageSaved k = saved(a.alloc(DType::i32, {T}));
    k.hidden = {a.alloc(dtype, {T, D})};
    gradient_TD_ = a.alloc(dtype, {T, D});
    pass(dry, a, k, grad, {});
    return a.peak_bytes() + kSlack;
  }

  Tensor random_rows_of(int64_t T) {
    const int64_t D = model_.config.hidden_size;
    const Tensor t = arena_.alloc(activation_dtype(model_.precision), {T, D});
    std::vector<float> row(static_cast<size_t>(D));
    Rng rng(2);
    const size_t mark = arena_.mark();
    const Tensor f32 = arena_.f32(1, D);
    for (int64_t i = 0; i < T; ++i) {
      for (float& v : row) v = static_cast<float>(rng.normal());
      upload(s_, f32, Tensor(row.data(), {1, D}));
      copy(s_, t.slice_rows(i, 1), f32);
    }
    arena_.release(mark);
    return t;
  }

  Stream& s_;
  const Options& options_;
  Model model_;
  std::unique_ptr<Optimizer> optimizer_;
  Arena arena_{0};
  Tensor ids_T_, hidden_TD_, gradient_TD_, counts_LE_;
};

void bench_slice(const Options& o) {
  const Device device = parse_device(o.device);
  if (!device.is_cuda()) fail("device: expected a GPU, found {}", o.device);
  Stream host(thread_count(0)), gpu(device, 1);
  Slice slice(host, gpu, o);
  slice.run();
  std::vector<double> speed;
  for (int64_t i = 0; i < o.runs; ++i) speed.push_back(slice.tokens() / seconds_of([&] { slice.run(); }));
  const double tokens = median(speed), flops = tokens * slice.flops_per_token();
  if (o.json) {
    JsonObject j;
    j.add("device", device_text(device)).add("tokens_per_second", tokens).add("train_flops", flops);
    j.add("micro_batch", o.micro_batch).add("expert_rows", slice.load());
    fmt::print("{}\n", j.str());
    return;
  }
  fmt::print("slice of {} {}, {} x {} tokens a step, {} at once: {:.0f} tokens/s through {} layers, {:.1f} TFLOP/s\n",
             o.model, o.precision, o.batch_size, o.seq_len, o.micro_batch, tokens, kLayers.end - kLayers.begin,
             flops * 1e-12);
  fmt::print("rows of the experts of the first layer: {}\n", fmt::join(slice.load(), ", "));
  if (o.profile) print_profile(gpu, [&] { slice.run(); });
}

}  // namespace

void add_bench_slice_command(CLI::App& bench) {
  auto o = std::make_shared<Options>();
  CLI::App* c = bench.add_subcommand("slice", "Training of four layers of DeepSeek-V3 671B with a rank's experts");
  const CLI::Range count(int64_t{1}, int64_t{1} << 20);
  c->add_option("--model", o->model, "config.json of the whole model")->capture_default_str();
  c->add_option("--precision", o->precision, "bf16 or fp8")->capture_default_str();
  c->add_option("--experts", o->experts, "held of each layer's; they take the rows of all")
      ->check(count)
      ->capture_default_str();
  c->add_option("--seq-len", o->seq_len, "tokens of a sequence")->check(count)->capture_default_str();
  c->add_option("--batch-size", o->batch_size, "sequences of a step")->check(count)->capture_default_str();
  c->add_option("--micro-batch", o->micro_batch, "sequences at once")->check(count)->capture_default_str();
  c->add_flag("--recompute", o->recompute, "norms, up-projections and SwiGLU again in the backward pass");
  c->add_option("--device", o->device, "cuda or cuda:N")->capture_default_str();
  c->add_option("--runs", o->runs, "measured steps")->check(CLI::Range(1, 1000))->capture_default_str();
  c->add_flag("--profile", o->profile, "one more step, and the time of each kind of op in it");
  c->add_flag("--json", o->json, "one JSON object")->excludes("--profile");
  c->footer("Example: sluice bench slice --micro-batch 2 --profile");
  c->callback([o] { bench_slice(*o); });
}

}  // namespace sluice
