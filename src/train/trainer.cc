#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "base/transfer.h"
#include "model/checkpoint.h"
#include "model/size.h"
#include "ops/elementwise.h"
#include "ops/optim.h"
#include "tokenizer/chat_template.h"
#include "train/batch.h"
#include "train/evaluate.h"
#include "train/memory.h"
#include "train/report.h"

namespace sluice {
namespace {

constexpr double kProbeSeconds = 2;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

int thread_count(int64_t wanted) {
  return wanted > 0 ? static_cast<int>(wanted) : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// Saves the configuration. A tokenizer that was trained here under another one is not this run's.
void begin_folder(const TrainConfig& c) {
  const fs::path file = fs::path(c.out) / kRunConfig;
  const std::string text = format_config(c);
  if (c.tokenizer.empty() && fs::exists(file) && read_file(file) != text)
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
      fs::remove(fs::path(c.out) / "tokenizer" / name);
  write_file(file, text);
}

}  // namespace

Trainer::Trainer(const TrainConfig& config, bool resume, TrainHooks hooks, Communicator& world)
    : config_(config), hooks_(std::move(hooks)), world_(world), stream_(thread_count(config.threads)) {
  check_config(config_);
  world_.note_phase("loading");
  open_device();
  check_ranks();
  std::optional<fs::path> checkpoint;
  if (resume) {
    checkpoint = find_good_checkpoint(config_.out, notes_);
    if (!checkpoint) fail("{}: no checkpoint to resume from", config_.out);
    check_same_on_all_ranks(*checkpoint);
    notes_.push_back(fmt::format("resuming from {}", checkpoint->string()));
  } else if (has_checkpoints(config_.out)) {
    fail("out: expected a folder without a run, found checkpoints in {0} (to go on: sluice train --resume {0})",
         config_.out);
  }
  const fs::path tokenizer = open_folder(checkpoint);
  tokenizer_files_ = read_tokenizer_files(tokenizer);  // now: the checkpoint may be removed before the next is saved
  tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::load(tokenizer));
  corpus_ = load_corpus(config_, *tokenizer_, stream_.threads());
  if (corpus_.has_chats) {  // what is trained is no base model any more
    std::string& text = tokenizer_files_["tokenizer_config.json"];
    text = add_chat_template(text.empty() ? "{}" : text, chat_template_jinja(), "tokenizer_config.json");
  }
  notes_.insert(notes_.end(), corpus_.notes.begin(), corpus_.notes.end());
  byte_lengths_ = token_byte_lengths(*tokenizer_);
  sampler_ =
      std::make_unique<Sampler>(corpus_.sources, SamplerOptions{config_.seq_len, static_cast<uint64_t>(config_.seed)});
  load_weights(checkpoint.value_or(fs::path()));
  progress_.total_steps = config_.steps;  // 0: plan() fills the time budget
}

Trainer::~Trainer() = default;

void Trainer::open_device() {
  const Device device = parse_device(config_.device);
  if (!device.is_cuda()) return;
  if (const std::string why = why_unusable(device); why.empty())
    gpu_.emplace(device, 1);
  else
    notes_.push_back(fmt::format("device {}: {}; training on the CPU", config_.device, why));
}

fs::path Trainer::open_folder(const std::optional<fs::path>& checkpoint) {
  if (is_first()) {
    std::error_code error;
    fs::create_directories(config_.out, error);
    if (error) fail("out: expected a folder that can be made, found {}: {}", config_.out, error.message());
    lock_ = std::make_unique<FolderLock>(config_.out);
    remove_unfinished(config_.out);
    if (!checkpoint) begin_folder(config_);
  }
  if (checkpoint) return *checkpoint;
  const fs::path trained = is_first() ? prepare_tokenizer(config_) : fs::path();
  agree(world_, 0);  // it is on the disk
  return is_first() ? trained : prepare_tokenizer(config_);
}

HfConfig Trainer::new_model_config(const Tokenizer& tokenizer) const {
  HfConfig c = builtin_model(config_.size, tokenizer.vocab_size(), config_.seq_len);
  if (!config_.model.empty()) {
    c = parse_hf_config(read_file(config_.model), config_.model);
    c.vocab_size = tokenizer.vocab_size();
    c.quantization.reset();
  }
  c.num_nextn_predict_layers = config_.mtp_modules;
  c.bos_token_id.reset();
  c.eos_token_id.clear();
  if (tokenizer.bos_id() != Tokenizer::kNone) c.bos_token_id = tokenizer.bos_id();
  if (tokenizer.eos_id() != Tokenizer::kNone) c.eos_token_id = {tokenizer.eos_id()};
  return c;
}

void Trainer::load_weights(const fs::path& checkpoint) {
  const Precision precision = parse_precision(config_.precision);
  const fs::path source = !checkpoint.empty()          ? checkpoint
                          : !config_.init_from.empty() ? resolve_checkpoint(config_.init_from)
                                                       : fs::path();
  HfConfig c = source.empty() ? new_model_config(*tokenizer_) : load_config(source);
  if (!source.empty()) c.num_nextn_predict_layers = stored_mtp_modules(SafetensorsFolder(source), c);
  if (c.vocab_size < tokenizer_->vocab_size())
    fail("{}: vocab_size: expected at least the tokenizer's {}, found {}", source.string(), tokenizer_->vocab_size(),
         c.vocab_size);
  RankLayout layout{static_cast<int>(config_.pipeline_parallel), static_cast<int>(config_.expert_parallel)};
  if (layout.pipeline > 1) layout.schedule = parse_schedule(config_.schedule);
  layout.exchange = {config_.dispatch_payload == "fp8", config_.combine_payload == "bf16", config_.expert_capacity};
  replicas_ = std::make_unique<Replicas>(world_, c, c.num_nextn_predict_layers, layout);
  activation_bytes_ = activation_bytes(c, config_, precision, compute().device(), replicas_->exchange());
  check_memory(c, config_, precision, activation_bytes_, compute().device(), is_first() ? 1 : replicas_->held_part());
  const RankShare& share = replicas_->share();
  model_ = allocate_model(c, c.num_nextn_predict_layers, precision);
  if (source.empty())
    fill_model(stream_, model_, random_rows(c, static_cast<uint64_t>(config_.seed)), share.held);
  else
    sluice::load_weights(stream_, source, model_, share.held);
  if (gpu_) model_ = upload_model(*gpu_, model_);
  model_.exchange = replicas_->exchange();
  optimizer_ = std::make_unique<Optimizer>(
      compute(), model_,
      OptimizerOptions{static_cast<float>(config_.beta1), static_cast<float>(config_.beta2),
                       static_cast<float>(config_.eps), static_cast<float>(config_.weight_decay),
                       static_cast<float>(config_.clip_norm), layout.pipeline == 1},
      share);
  if (config_.ema_decay > 0) {
    ema_ = std::make_unique<Model>(allocate_f32_like(model_));
    copy_weights(compute(), optimizer_->master(), ema_->weights, share.owned);
  }
  if (layout.pipeline > 1) make_pipeline();
  activations_ = Arena(activation_bytes_, compute().device());
  const int64_t routers = num_routers(model_.weights), E = std::max<int64_t>(c.n_routed_experts, 1);
  counts_.resize(static_cast<size_t>(routers * E));
  counts_memory_ = Arena(counts_.size() * sizeof(int64_t) + 64, compute().device());
  if (routers > 0) counts_LE_ = counts_memory_.alloc(DType::i64, {routers, E});
  if (world_.size() > 1) writer_ = std::make_unique<CheckpointWriter>(world_, config_.out, replicas_->owners());
  if (checkpoint.empty()) return;
  if (gpu_) {
    RunCopy copy(stream_, *gpu_, state());
    load_run(stream_, checkpoint, copy.state());
    copy.upload_to(*gpu_, state());
  } else {
    load_run(stream_, checkpoint, state());
  }
  replicas_->share_weights(model_.weights);  // the owners' are those of the masters, not as the file rounds them
  sampler_->set_state(progress_.sampler);
}

RunState Trainer::state() { return {model_, *optimizer_, ema_ ? &ema_->weights : nullptr, progress_}; }

StepLosses Trainer::forward_backward(const Batch& batch, int64_t first, int64_t end, const StepSchedule& schedule) {
  StepLosses losses;
  losses.tokens = count_targets(batch);
  if (first >= end) optimizer_->zero_grad(compute());  // nothing sets them
  PassOptions o = pass_options(config_, schedule, losses.tokens);
  for (int64_t begin = first; begin < end; begin += config_.micro_batch) {
    const int64_t rows = std::min(config_.micro_batch, end - begin);
    o.balance_scale = static_cast<float>(rows) / static_cast<float>(batch.rows);
    o.gradients = begin == first ? Out::set : Out::add;
    const size_t mark = activations_.mark();
    const ModelBatch b =
        device_batch(compute(), activations_, batch, begin, rows, static_cast<int64_t>(model_.weights.mtp.size()));
    const PassResult r = model_forward_backward(compute(), activations_, model_, optimizer_->grad(), b, o, counts_LE_);
    losses.main += sum_of(compute(), r.loss_T) * static_cast<double>(o.loss_scale);
    for (const Tensor& loss : r.mtp_loss)
      losses.mtp +=
          sum_of(compute(), loss) * static_cast<double>(o.loss_scale) / static_cast<double>(r.mtp_loss.size());
    for (const Tensor& loss : r.balance_loss)
      losses.balance += sum_of(compute(), loss) / static_cast<double>(batch.rows);
    activations_.release(mark);
  }
  own_losses_are_finite_ = std::isfinite(losses.main) && std::isfinite(losses.mtp);
  return losses;
}

Batch Trainer::peek(int64_t rows) {
  const std::vector<int64_t> before = sampler_->state();
  Batch batch = sampler_->next(rows);
  sampler_->set_state(before);
  return batch;
}

double Trainer::probe() {
  const StepSchedule schedule = schedule_at(config_, 1, 0);
  // A pipeline needs all of a step's micro-batches.
  const Batch batch = peek(pipeline_ ? config_.batch_size : std::min(config_.micro_batch, config_.batch_size));
  const auto pass = [&] {
    return pipeline_ ? whole_batch(batch, schedule) : forward_backward(batch, 0, batch.rows, schedule);
  };
  pass();  // first touch of all memory
  const double start = now();
  int64_t tokens = 0;
  // A run of known length is not kept waiting for more than a fiftieth of itself.
  const double most = config_.steps > 0 ? static_cast<double>(config_.steps) *
                                              static_cast<double>(config_.batch_size * config_.seq_len) / 50
                                        : std::numeric_limits<double>::infinity();
  const auto goes_on = [&] {
    return tokens == 0 || (now() - start < kProbeSeconds && static_cast<double>(tokens) < most);
  };
  while (agree(world_, goes_on())) tokens += std::max<int64_t>(pass().tokens, 1);
  const int64_t ranks = pipeline_ ? 1 : world_.size();  // that saw so many tokens
  const double seconds_per_token = (now() - start) / static_cast<double>(tokens * ranks);
  optimizer_->zero_grad(compute());
  return seconds_per_token;
}

size_t Trainer::checkpoint_bytes() const {
  const auto bytes = [&](Precision p) {
    return model_bytes(model_.config, static_cast<int64_t>(model_.weights.mtp.size()), p);
  };
  const size_t gradients = bytes(Precision::f32), average = gradients + bytes(model_.precision);
  return bytes(model_.precision) + (ema_ ? average : 0) - gradients +
         Optimizer::bytes(model_.config, static_cast<int64_t>(model_.weights.mtp.size()), model_.precision);
}

TrainPlan Trainer::plan() {
  TrainPlan p;
  const int64_t mtp = static_cast<int64_t>(model_.weights.mtp.size());
  const ModelSize size = model_size(model_.config, mtp);
  seconds_per_token_ = probe();
  const double step_seconds = seconds_per_token_ * static_cast<double>(config_.batch_size * config_.seq_len);
  if (progress_.total_steps == 0) {
    const double left = std::max(0.0, parse_duration(config_.time) - progress_.seconds);
    progress_.total_steps =
        agree(world_, std::max<int64_t>(1, progress_.step + static_cast<int64_t>(left / step_seconds)));
  }
  p.parameters = size.main + size.mtp;
  p.active_parameters = size.active_with_embedding;
  p.weight_bytes = model_bytes(model_.config, mtp, model_.precision);
  p.optimizer_bytes = Optimizer::bytes(model_.config, mtp, model_.precision);
  p.activation_bytes = activation_bytes_;
  p.available_bytes = available_memory(compute().device());
  p.checkpoint_bytes = checkpoint_bytes();
  p.flops_per_token = training_flops_per_token(model_.config, mtp, config_.seq_len);
  p.tokens_per_second = 1 / seconds_per_token_;
  p.tokens = corpus_.tokens;
  p.steps = progress_.total_steps;
  p.seconds = step_seconds * static_cast<double>(progress_.total_steps - progress_.step);
  return p;
}

bool Trainer::run() {
  if (progress_.total_steps == 0) plan();
  if (const size_t free = is_first() ? fs::space(config_.out).available : SIZE_MAX; free < checkpoint_bytes())
    fail("out: a checkpoint takes {} bytes, the disk of {} has {}", checkpoint_bytes(), config_.out, free);
  const ModelSize size = model_size(model_.config, static_cast<int64_t>(model_.weights.mtp.size()));
  RunInfo info;
  info.step = progress_.step;
  info.total_steps = progress_.total_steps;
  info.parameters = size.main + size.mtp;
  info.active_parameters = size.active_with_embedding;
  for (size_t l = 0; l < model_.weights.layers.size(); ++l)
    if (model_.weights.layers[l].is_moe) info.expert_layers.push_back(fmt::format("{}", l));
  for (const MtpWeights& m : model_.weights.mtp)
    if (m.block.is_moe) info.expert_layers.push_back("MTP");
  info.config = format_config(config_);
  if (is_first()) {
    metrics_ = std::make_unique<MetricsWriter>(config_.out, info);
    bar_ = std::make_unique<Progress>(stderr, progress_.total_steps);
  }
  started_ = now() - progress_.seconds;
  const bool is_over = progress_.step >= progress_.total_steps;  // resumed after its end: evaluated and saved already
  bool stopped = false;
  while (progress_.step < progress_.total_steps && !stopped) {
    const double p = static_cast<double>(progress_.step) / static_cast<double>(progress_.total_steps);
    train_step(schedule_at(config_, progress_.step + 1, p));
    replan();
    stopped = agree(world_, hooks_.stop_requested && hooks_.stop_requested());
    const bool last = progress_.step == progress_.total_steps;
    const auto due = [&](int64_t every) { return !last && every > 0 && progress_.step % every == 0; };
    const bool saves = due(config_.save_every) || (stopped && !last);
    if (due(config_.eval_every)) evaluate_all(config_.eval_tokens, saves);
    if (due(config_.sample_every)) sample();
    if (saves) save();
  }
  const bool finished = progress_.step >= progress_.total_steps;
  if (finished) {
    if (bar_) bar_->finish();
    if (!is_over) evaluate_all(0, true);
    if (!is_over) sample();
    save();  // of a run that was over: its links, which a kill may have left behind
  }
  if (writer_) writer_->wait();
  record_traffic();
  world_.note_phase("its end");
  if (is_first()) {
    bar_->finish();
    write_report(config_.out);
  }
  return finished;
}

void Trainer::train_step(const StepSchedule& schedule) {
  const double start = now();
  world_.note_phase("training");
  const TrafficMetrics before = replicas_->traffic();
  if (counts_LE_) zero(compute(), counts_LE_);
  const StepLosses losses = whole_batch(sampler_->next(schedule.batch_size), schedule);
  const double norm = grad_norm();
  check_finite(losses, norm);
  optimizer_->step(compute(), schedule.lr, norm);
  replicas_->share_weights(model_.weights);
  if (counts_LE_) {
    replicas_->sum(counts_LE_);
    download(compute(), Tensor(counts_.data(), DType::i64, {counts_LE_.rows(), counts_LE_.cols()}), counts_LE_);
  }
  update_biases(schedule.bias_speed);
  if (ema_) {
    const std::vector<Param> average = parameters(ema_->weights), master = parameters(optimizer_->master());
    for (size_t i = 0; i < master.size(); ++i)
      if (is_in(replicas_->share().owned, i))
        ema_update(compute(), average[i].matrix->tensor(), master[i].matrix->tensor(),
                   static_cast<float>(config_.ema_decay));
  }
  ++progress_.step;
  progress_.tokens += losses.tokens;
  progress_.seconds = now() - started_;
  progress_.sampler = sampler_->state();
  record(schedule, losses, norm, now() - start);
  add_traffic(before, losses.tokens);
}

void Trainer::update_biases(float speed) {
  if (speed == 0) return;
  const std::vector<Matrix*> biases = router_biases(model_.weights);
  for (size_t l = 0; l < biases.size(); ++l)
    if (*biases[l])
      moe_bias_update(compute(), biases[l]->tensor(), counts_LE_.slice_rows(static_cast<int64_t>(l), 1), speed);
}

/// With a time budget: as many more steps as still fit.
void Trainer::replan() {
  const double budget = parse_duration(config_.time);
  constexpr int64_t kEvery = 10;
  if (config_.steps > 0 || budget == 0 || progress_.step % kEvery != 0) return;
  const double per_step = progress_.seconds / static_cast<double>(progress_.step);
  const int64_t left = static_cast<int64_t>((budget - progress_.seconds) / per_step);
  progress_.total_steps = agree(world_, progress_.step + std::max<int64_t>(left, 0));
  if (bar_) bar_->set_total(progress_.total_steps);
}

std::vector<std::vector<int64_t>> Trainer::expert_load() const {
  std::vector<std::vector<int64_t>> load;
  const auto E = static_cast<size_t>(std::max<int64_t>(model_.config.n_routed_experts, 1));
  for (size_t i = 0; i < counts_.size(); i += E)
    load.emplace_back(counts_.begin() + static_cast<ptrdiff_t>(i), counts_.begin() + static_cast<ptrdiff_t>(i + E));
  return load;
}

void Trainer::record(const StepSchedule& schedule, const StepLosses& losses, double norm, double seconds) {
  if (!is_first()) return;
  StepMetrics m;
  m.step = progress_.step;
  m.tokens = progress_.tokens;
  m.loss_main = losses.main;
  if (!model_.weights.mtp.empty()) m.loss_mtp = losses.mtp;
  m.lr = static_cast<double>(schedule.lr);
  m.grad_norm = norm;
  m.mtp_weight = static_cast<double>(schedule.mtp_weight);
  m.bias_speed = static_cast<double>(schedule.bias_speed);
  m.tokens_per_second = static_cast<double>(losses.tokens) / seconds;
  m.flops_per_second =
      m.tokens_per_second *
      training_flops_per_token(model_.config, static_cast<int64_t>(model_.weights.mtp.size()), config_.seq_len);
  m.seconds = progress_.seconds;
  if (!counts_.empty()) {
    m.balance_loss = losses.balance;
    m.expert_load = expert_load();
    m.max_vio = max_vio(m.expert_load);
  }
  metrics_->add(m);
  bar_->update(m);
}

void Trainer::evaluate_all(int64_t max_tokens, bool saves) {
  world_.note_phase("evaluating");
  // The first rank alone, with all of the model.
  replicas_->gather(model_.weights);
  if (!is_first()) return;
  model_.exchange = nullptr;
  double total = 0;
  int64_t targets = 0;
  for (const HeldOut& h : corpus_.held_out) {
    const EvalResult r = evaluate(compute(), activations_, model_, h.range, config_.seq_len, max_tokens, byte_lengths_);
    EvalMetrics m{progress_.step, h.name, r.loss(), r.bits_per_byte, {}, {}};
    if (r.mtp_acceptance >= 0) m.mtp_acceptance = r.mtp_acceptance;
    if (r.max_vio >= 0) m.max_vio = r.max_vio;
    metrics_->add(m);
    bar_->note(fmt::format("step {}: {}: loss {:.4f}, {:.4f} bits per byte{}{}", progress_.step, h.name, r.loss(),
                           r.bits_per_byte,
                           m.mtp_acceptance ? fmt::format(", MTP acceptance {:.1f}%", 100 * *m.mtp_acceptance) : "",
                           m.max_vio ? fmt::format(", MaxVio {:.2f}", *m.max_vio) : ""));
    // The best checkpoint is chosen on the same tokens every time.
    const bool is_same = max_tokens == config_.eval_tokens || !saves;
    const EvalResult part = is_same ? r
                                    : evaluate(compute(), activations_, model_, h.range, config_.seq_len,
                                               config_.eval_tokens, byte_lengths_);
    total += part.nats;
    targets += part.targets;
  }
  model_.exchange = replicas_->exchange();
  if (targets == 0 || !saves) return;  // the best of the checkpoints, not of the steps
  const double loss = total / static_cast<double>(targets);
  if (!(loss < progress_.best_loss)) return;
  progress_.best_loss = loss;
  progress_.best_step = progress_.step;
}

void Trainer::sample() {
  if (!hooks_.sample || config_.sample_prompt.empty()) return;
  replicas_->gather(model_.weights);
  if (!is_first()) return;
  const Model host = gpu_ ? download_model(*gpu_, model_) : Model();
  const std::string text = hooks_.sample(gpu_ ? host : model_, *tokenizer_, config_.sample_prompt);
  metrics_->add(TextSample{progress_.step, config_.sample_prompt, text});
  bar_->note(fmt::format("step {}: {}{}", progress_.step, config_.sample_prompt, text));
}

void Trainer::check_finite(const StepLosses& losses, double norm) {
  if (std::isfinite(losses.main) && std::isfinite(losses.mtp) && std::isfinite(norm)) return;
  const std::string source = who_is_not_a_number();
  fail(
      "step {}: the loss is {} and the gradient norm {}{}: training stopped before the update; the checkpoints in {} "
      "stand (a lower lr or clip_norm may help)",
      progress_.step + 1, losses.main, norm, source, config_.out);
}

void Trainer::check_weights() {
  const StepSchedule schedule = schedule_at(config_, 1, 0);
  StepLosses losses =
      pipeline_ ? whole_batch(peek(config_.batch_size), schedule) : forward_backward(peek(1), 0, 1, schedule);
  if (!pipeline_) replicas_->sum(Tensor(&losses.main, DType::f64, {3}));
  const double norm = grad_norm();
  optimizer_->zero_grad(compute());
  // A weight that no token of this batch used, such as a row of the embedding, shows in neither.
  if (std::isfinite(losses.main) && std::isfinite(norm) && !is_any_weight_spoiled()) return;
  const std::string source = who_is_not_a_number();
  fail(
      "step {}: after the update the loss is {} and the gradient norm {}{}: not saved; the checkpoints in {} stand (a "
      "lower lr or clip_norm may help)",
      progress_.step, losses.main, norm, source, config_.out);
}

void Trainer::save() {
  world_.note_phase("saving");
  check_weights();
  if (is_first()) metrics_->sync();
  RunFiles files{format_config(config_), tokenizer_files_, config_.keep_last};
  if (writer_) {
    writer_->wait();  // a second copy beside the one being written could be too much
    writer_->write(std::make_unique<RunSnapshot>(compute(), state()), std::move(files));
  } else if (gpu_) {
    save_run(stream_, config_.out, RunSnapshot(*gpu_, state()).saved(), files, world_);
  } else {
    save_run(stream_, config_.out, saved(state()), files, world_);
  }
}

}  // namespace sluice
