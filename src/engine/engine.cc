#include "engine/engine.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/transfer.h"
#include "model/size.h"
#include "ops/block_quant.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/sample.h"

namespace sluice {
namespace {

constexpr int64_t kFirstRopeRows = 2048;

/// Byte-pair encoding numbers tokens in the order of their merges, so that the first 32768 of DeepSeek-V3's 129280 are
/// nine tenths of a text. Drafting among these alone loses a tenth of the drafts and saves three quarters of the head,
/// which pays where the head is more than a tenth of the weights of a pass (docs/benchmarks.md, Drafts).
int64_t draft_vocab_of(const HfConfig& c) {
  constexpr int64_t kFrequent = 32768, kShare = 10;
  const bool is_costly = c.vocab_size * c.hidden_size * kShare > model_size(c, 0).active;
  return is_costly ? std::min(kFrequent, c.vocab_size) : c.vocab_size;
}

size_t norm_bytes(const HfConfig& c, size_t mtp_modules) {
  const int64_t per_block = 2 * c.hidden_size + c.q_lora_rank + c.kv_lora_rank + 64;
  const int64_t blocks = c.num_hidden_layers + static_cast<int64_t>(mtp_modules);
  return static_cast<size_t>(blocks * per_block + (1 + 3 * static_cast<int64_t>(mtp_modules)) * (c.hidden_size + 16)) *
         sizeof(float);
}

/// Frees what has been allocated since it was made, also when an exception passes.
class ArenaMark {
 public:
  explicit ArenaMark(Arena& a) : arena_(a), mark_(a.mark()) {}
  ~ArenaMark() { arena_.release(mark_); }
  ArenaMark(const ArenaMark&) = delete;
  ArenaMark& operator=(const ArenaMark&) = delete;

 private:
  Arena& arena_;
  size_t mark_;
};

/// Null on the CPU. Throws Error where they, the cache and a pass do not fit.
std::unique_ptr<GpuWeights> weights_on_gpu(Stream* gpu, const Model& model, const EngineOptions& options) {
  if (!gpu) return nullptr;
  const Device& device = gpu->device();
  const std::string why = why_too_large(plan_gpu(model, options, device), free_memory(device));
  if (!why.empty()) fail("device {}: {}", device_text(device), why);
  return std::make_unique<GpuWeights>(*gpu, model);
}

}  // namespace

Engine::Engine(Stream& s, const Model& model, const EngineOptions& options, Stream* gpu)
    : host_(s),
      gpu_(gpu),
      s_(gpu ? *gpu : s),
      model_(model),
      context_(checked_context(model.config, options.context)),
      draft_vocab_(draft_vocab_of(model.config)),
      pass_rows_(gpu ? kGpuPassRows : kPassRows),
      gpu_weights_(weights_on_gpu(gpu, model, options)),
      projector_(gpu ? Projector(gpu->device()) : Projector(total_packed_bytes(model.weights))),
      norms_(norm_bytes(model.config, model.weights.mtp.size()), s_.device()),
      rope_memory_(static_cast<size_t>(context_ * model.config.qk_rope_head_dim) * sizeof(float) + 64, s_.device()),
      rope_table_(rope_memory_.f32(context_, model.config.qk_rope_head_dim)),
      cache_(model.config.num_hidden_layers + (model.weights.mtp.empty() ? 0 : 1), latent_shape(model.config).row(),
             pages_for(std::max(context_, options.tokens)), gpu, gpu ? gpu_cache_dtype(model.weights) : DType::f32),
      workspace_(0) {
  const ModelWeights& w = weights();
  const auto as_f32 = [this](const Matrix& norm) { return this->as_f32(norm); };
  for (const BlockWeights& b : w.layers) blocks_.push_back(make_infer_block(b, as_f32));
  final_norm_ = as_f32(w.norm);
  if (!w.mtp.empty()) mtp_ = make_infer_mtp(w.mtp.front(), as_f32);
  if (gpu_weights_) {
    for (InferBlock& b : blocks_) b.heads = gpu_weights_->heads(*b.w);
    if (mtp_) mtp_->block.heads = gpu_weights_->heads(*mtp_->block.w);
  }
  if (options.memory > 0) bound_memory(options);
  workspace_ = Arena(pass_bytes(model.config, w, context_, pass_rows_, s_.device()), s_.device());
}

void Engine::bound_memory(const EngineOptions& options) {
  check(!gpu_, "Engine: expected no bound of memory on a GPU");
  const MemoryPlan plan = plan_memory(model_, options);
  pass_rows_ = plan.pass_rows;
  experts_ = std::make_unique<ExpertCache>(model_, plan.slots);
  projector_.bound(*experts_, model_.mappings);
  for (size_t l = 0; l + 1 < blocks_.size(); ++l)
    if (blocks_[l + 1].w->is_moe) blocks_[l].next = &blocks_[l + 1];
}

void Engine::observe(ProductObserver observer) {
  check(!gpu_, "Engine::observe: expected an engine on the CPU");
  projector_.observe(std::move(observer));
}

void Engine::share_experts(ExpertRanks& ranks) {
  check(!gpu_ && !experts_, "Engine::share_experts: expected an engine on the CPU without a bound of memory");
  ranks_ = &ranks;
}

void Engine::observe_routing(RouteObserver observer) {
  route_observer_ = pass_observer_ = std::move(observer);
  if (!gpu_ || !route_observer_) return;
  if (!choices_)
    choices_ = std::make_unique<GpuChoices>(s_, model_.weights, weights(), pass_rows_, config().num_experts_per_tok);
  pass_observer_ = [this](const Tensor& choice_TK, const Matrix& router) { choices_->add(choice_TK, router); };
}

/// A norm of the model's as float32 on the device of the passes.
Tensor Engine::as_f32(const Matrix& norm) {
  const Tensor t = norms_.f32(1, norm.cols);
  if (!gpu_) {
    copy(s_, t, norm.tensor());
    return t;
  }
  std::vector<float> values(static_cast<size_t>(norm.cols));
  const Tensor host(values.data(), {1, norm.cols});
  copy(host_, host, norm.tensor());
  upload(s_, t, host);
  return t;
}

void Engine::fill_rope(int64_t rows) {
  if (rows <= rope_rows_) return;
  rope_rows_ = std::min(context_, std::max(kFirstRopeRows, 2 * rows));
  const Tensor table = rope_table_.slice_rows(0, rope_rows_);
  if (!gpu_) return fill_rope_table(config(), table);
  std::vector<float> values(static_cast<size_t>(table.size()));
  const Tensor host(values.data(), {rope_rows_, table.cols()});
  fill_rope_table(config(), host);
  upload(s_, table, host);
}

/// Ids (T), positions (T), sequences (T), pages (S, most pages) and keys, one after another.
Tensor Engine::fill_tables(Arena& a, std::span<const PassRows> parts, std::span<const DrawKey> keys,
                           int64_t most_pages) {
  int64_t rows = 0;
  for (const PassRows& p : parts) rows += static_cast<int64_t>(p.ids.size());
  const int64_t num_pages = static_cast<int64_t>(parts.size()) * most_pages;
  const int64_t size = 3 * rows + num_pages + 3 * static_cast<int64_t>(keys.size());
  tables_.assign(static_cast<size_t>(size), 0);
  int32_t *id = tables_.data(), *position = id + rows, *sequence = position + rows, *pages = sequence + rows;
  for (size_t i = 0; i < parts.size(); ++i) {
    const PassRows& p = parts[i];
    for (const int32_t x : p.ids)
      if (x < 0 || x >= config().vocab_size)
        fail("token ids: expected 0 to {} (vocab_size), found {}", config().vocab_size - 1, x);
    id = std::copy(p.ids.begin(), p.ids.end(), id);
    std::iota(position, position + p.ids.size(), static_cast<int32_t>(p.begin));
    position += p.ids.size();
    sequence = std::fill_n(sequence, p.ids.size(), static_cast<int32_t>(i));
    std::copy(p.pages.begin(), p.pages.end(), pages + static_cast<int64_t>(i) * most_pages);
  }
  if (!keys.empty()) std::memcpy(pages + num_pages, keys.data(), keys.size_bytes());
  const Tensor tables = a.alloc(DType::i32, {size});
  upload(s_, tables, Tensor(tables_.data(), DType::i32, {size}));
  return tables;
}

Engine::Inputs Engine::inputs(Arena& a, std::span<const PassRows> parts, int64_t rows, std::span<const DrawKey> keys) {
  check(rows >= 1 && rows <= pass_rows_, "Engine: expected 1 to pass_rows() rows");
  int64_t most_pages = 0, row = 0, text_rows = 0, text_keys = 0;
  for (const PassRows& p : parts) most_pages = std::max(most_pages, static_cast<int64_t>(p.pages.size()));
  if (gpu_) most_pages = (most_pages + kGpuPageStep - 1) / kGpuPageStep * kGpuPageStep;
  const Tensor tables = fill_tables(a, parts, keys, most_pages);
  const auto part_of = [&](int64_t begin, std::initializer_list<int64_t> dims) {
    return Tensor(tables.at(0, begin), DType::i32, dims);
  };
  prompts_.clear();
  for (size_t i = 0; i < parts.size(); ++i) {
    const PassRows& p = parts[i];
    const int64_t n = static_cast<int64_t>(p.ids.size());
    check(p.begin >= 0 && p.begin + n <= context_ && pages_for(p.begin + n) <= static_cast<int64_t>(p.pages.size()),
          "Engine: rows outside the context or the pages");
    check(p.kind == RowKind::prompt || prompts_.empty(), "Engine: expected text before prompts");
    fill_rope(p.begin + n);
    if (p.kind == RowKind::prompt) {
      const int64_t pages = 3 * rows + static_cast<int64_t>(i) * most_pages;
      prompts_.push_back({row, n, p.begin, part_of(pages, {static_cast<int64_t>(p.pages.size())})});
    } else {
      text_rows += n;
      text_keys += n * p.begin + n * (n + 1) / 2;
    }
    row += n;
  }
  const CachePlaces places{part_of(rows, {rows}), part_of(2 * rows, {rows}),
                           part_of(3 * rows, {static_cast<int64_t>(parts.size()), most_pages})};
  return {{&config(), latent_shape(config()), router_config(config()), places, text_rows, text_keys, prompts_,
           rope_table_, &projector_, &pass_observer_, ranks_},
          part_of(0, {rows}),
          keys.empty() ? Tensor() : part_of(tables.size() - 3 * rows, {rows, 3})};
}

Tensor Engine::embed(Arena& a, const Inputs& in) {
  const int64_t rows = in.ids_T.size();
  const Tensor x_TD = a.f32(rows, config().hidden_size);
  const Matrix& table = weights().embed;
  const int64_t bytes = row_bytes(table.format, table.cols);
  if (!is_block_format(table.format)) embedding_forward(s_, x_TD, in.ids_T, table);
  for (int64_t t = 0; is_block_format(table.format) && t < rows; ++t)
    dequantize_row(static_cast<const std::byte*>(table.data) + in.ids_T.ptr<int32_t>()[t] * bytes, table.format,
                   table.cols, static_cast<float*>(x_TD.at(t)));
  projector_.release(table);
  return x_TD;
}

/// Room on the device of the passes for a tensor that lies in host memory: that tensor itself on the CPU.
Tensor Engine::place_on_device(Arena& a, const Tensor& host) { return gpu_ ? a.f32(host.rows(), host.cols()) : host; }

/// The same with its elements.
Tensor Engine::to_device(Arena& a, const Tensor& host) {
  const Tensor there = place_on_device(a, host);
  if (gpu_) upload(s_, there, host);
  return there;
}

void Engine::to_host(const Tensor& host, const Tensor& there) {
  if (gpu_) download(s_, host, there);
}

void Engine::give_choices() {
  if (choices_ && route_observer_) choices_->give(route_observer_);
}

void Engine::run_blocks(const Tensor& out_TD, const Inputs& in) {
  const Tensor h_TD = embed(workspace_, in);
  for (size_t l = 0; l < blocks_.size(); ++l)
    infer_block(s_, workspace_, h_TD, blocks_[l], cache_.layer(static_cast<int64_t>(l)), in.pass);
  infer_norm(s_, workspace_, out_TD, h_TD, final_norm_, static_cast<float>(config().rms_norm_eps));
}

void Engine::forward(Tensor hidden_TD, std::span<const PassRows> parts, int64_t wanted) {
  const ArenaMark mark(workspace_);
  if (choices_) choices_->clear();
  const Tensor out_TD = place_on_device(workspace_, hidden_TD);
  const Inputs in = inputs(workspace_, parts, hidden_TD.rows());
  const auto queue_ops = [&] { run_blocks(out_TD, in); };
  gpu_&& prompts_.empty() ? run_recorded(in, 0, queue_ops) : queue_ops();
  if (const int64_t rows = hidden_TD.rows() - wanted; rows > 0)
    to_host(hidden_TD.slice_rows(wanted, rows), out_TD.slice_rows(wanted, rows));
  give_choices();
}

/// Queues a pass of text, with draws among `limit` ids unless that is 0.
void Engine::run_recorded(const Inputs& in, int64_t limit, const std::function<void()>& queue_ops) {
  const bool is_observed = static_cast<bool>(pass_observer_);
  const Tensor& pages_SP = in.pass.places.pages_SP;
  const int64_t rows = in.ids_T.size();
  const bool is_called =
      recorded_.run(s_, {rows, pages_SP.rows(), pages_SP.cols(), limit, is_observed}, projector_, queue_ops);
  if (is_observed && !is_called) choices_->add_recorded(rows);
}

void Engine::queue_draws(const Tensor& ids_T, const Tensor& out_TD, const Inputs& in, int64_t limit) {
  const Matrix& head = weights().head;
  run_blocks(out_TD, in);
  const int64_t most = gpu_logit_rows(config());
  for (int64_t t = 0; t < ids_T.size(); t += most) {
    const ArenaMark piece(workspace_);
    const int64_t rows = std::min(most, ids_T.size() - t);
    const Tensor logits = workspace_.f32(rows, config().vocab_size);
    projector_.project(s_, infer_input(s_, workspace_, out_TD.slice_rows(t, rows), {&head}), {{logits, head}});
    draw_rows(s_, Tensor(ids_T.at(0, t), DType::i32, {rows}), logits, in.keys.slice_rows(t, rows), limit);
  }
}

/// From a row of hidden states in memory of the GPU's.
int32_t Engine::draw_on_host(const Tensor& hidden_D, const Draw& d) {
  const int64_t D = config().hidden_size, V = config().vocab_size;
  std::vector<float> hidden(static_cast<size_t>(D)), row(static_cast<size_t>(V)), work(row.size());
  download(s_, Tensor(hidden.data(), {1, D}), hidden_D);
  logits(Tensor(row.data(), {1, V}), Tensor(hidden.data(), {1, D}));
  SamplingRule rule;
  rule.temperature = d.temperature;
  return sluice::draw(host_, Tensor(work.data(), {1, V}), Tensor(row.data(), {1, V}), d.limit, rule, {}, d.noise);
}

void Engine::draw(std::span<int32_t> ids, std::span<const PassRows> parts, std::span<const Draw> draws) {
  const int64_t rows = static_cast<int64_t>(ids.size());
  check(gpu_ && rows > 0 && ids.size() == parts.size() && draws.size() == parts.size(),
        "Engine::draw: expected a GPU, and a draw for each part");
  std::vector<DrawKey> keys;
  for (const Draw& d : draws) {
    check(d.limit == draws[0].limit, "Engine::draw: expected one limit");
    keys.push_back(DrawKey::of(d.temperature, d.noise));
  }
  const ArenaMark mark(workspace_);
  if (choices_) choices_->clear();
  const Tensor ids_T = workspace_.alloc(DType::i32, {rows}), out_TD = workspace_.f32(rows, config().hidden_size);
  const Inputs in = inputs(workspace_, parts, rows, keys);
  check(prompts_.empty(), "Engine::draw: expected rows of text");
  run_recorded(in, draws[0].limit, [&] { queue_draws(ids_T, out_TD, in, draws[0].limit); });
  download(s_, Tensor(ids.data(), DType::i32, {rows}), ids_T);
  for (size_t i = 0; i < ids.size(); ++i)  // too close to tell there
    if (ids[i] < 0) ids[i] = draw_on_host(out_TD.slice_rows(static_cast<int64_t>(i), 1), draws[i]);
  give_choices();
}

void Engine::forward_mtp(Tensor z_TD, const Tensor& hidden_TD, std::span<const PassRows> parts) {
  check(mtp_.has_value(), "Engine::forward_mtp: expected an MTP module");
  const ArenaMark mark(workspace_);
  if (choices_) choices_->clear();
  const Tensor out_TD = place_on_device(workspace_, z_TD), in_TD = to_device(workspace_, hidden_TD);
  const Inputs in = inputs(workspace_, parts, hidden_TD.rows());
  const Tensor e_TD = embed(workspace_, in);
  infer_mtp(s_, workspace_, out_TD, in_TD, e_TD, *mtp_, cache_.layer(static_cast<int64_t>(blocks_.size())), in.pass);
  to_host(z_TD, out_TD);
  give_choices();
}

void Engine::logits(Tensor logits, const Tensor& hidden_TD) {
  const Matrix& head = weights().head;
  const int64_t most = gpu_ ? gpu_logit_rows(config()) : pass_rows_;
  for (int64_t t = 0; t < hidden_TD.rows(); t += most) {  // what the working memory is for
    const ArenaMark mark(workspace_);
    const int64_t rows = std::min(most, hidden_TD.rows() - t);
    const Tensor in_TD = to_device(workspace_, hidden_TD.slice_rows(t, rows)), out = logits.slice_rows(t, rows);
    const Tensor there = place_on_device(workspace_, out);
    projector_.project(s_, infer_input(s_, workspace_, in_TD, {&head}), {{there, head}});
    to_host(out, there);
  }
}

}  // namespace sluice
