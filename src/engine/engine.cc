#include "engine/engine.h"

#include <algorithm>
#include <numeric>

#include "model/size.h"
#include "ops/block_quant.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"

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

}  // namespace

Engine::Engine(Stream& s, const Model& model, const EngineOptions& options)
    : s_(s),
      model_(model),
      context_(checked_context(model.config, options.context)),
      draft_vocab_(draft_vocab_of(model.config)),
      projector_(total_packed_bytes(model.weights)),
      norms_(norm_bytes(model.config, model.weights.mtp.size())),
      rope_memory_(static_cast<size_t>(context_ * model.config.qk_rope_head_dim) * sizeof(float) + 64),
      rope_table_(rope_memory_.f32(context_, model.config.qk_rope_head_dim)),
      cache_(model.config.num_hidden_layers + (model.weights.mtp.empty() ? 0 : 1), latent_shape(model.config).row(),
             pages_for(std::max(context_, options.tokens))),
      workspace_(0) {
  const ModelWeights& w = model.weights;
  const auto as_f32 = [this](const Matrix& norm) { return this->as_f32(norm); };
  for (const BlockWeights& b : w.layers) blocks_.push_back(make_infer_block(b, as_f32));
  final_norm_ = as_f32(w.norm);
  if (!w.mtp.empty()) mtp_ = make_infer_mtp(w.mtp.front(), as_f32);
  if (options.memory > 0) bound_memory(options);
  workspace_ = Arena(pass_bytes(model, context_, pass_rows_));
}

void Engine::bound_memory(const EngineOptions& options) {
  const MemoryPlan plan = plan_memory(model_, options);
  pass_rows_ = plan.pass_rows;
  experts_ = std::make_unique<ExpertCache>(model_, plan.slots);
  projector_.bound(*experts_, model_.mappings);
  for (size_t l = 0; l + 1 < blocks_.size(); ++l)
    if (blocks_[l + 1].w->is_moe) blocks_[l].next = &blocks_[l + 1];
}

Tensor Engine::as_f32(const Matrix& norm) {
  const Tensor t = norms_.f32(1, norm.cols);
  copy(s_, t, norm.tensor());
  return t;
}

void Engine::fill_rope(int64_t rows) {
  if (rows <= rope_rows_) return;
  rope_rows_ = std::min(context_, std::max(kFirstRopeRows, 2 * rows));
  fill_rope_table(config(), rope_table_.slice_rows(0, rope_rows_));
}

InferPass Engine::pass(Arena& a, std::span<const PassRows> parts, int64_t rows) {
  check(rows >= 1 && rows <= pass_rows_, "Engine: expected 1 to pass_rows() rows");
  int64_t most_pages = 0, row = 0, text_rows = 0;
  for (const PassRows& p : parts) most_pages = std::max(most_pages, static_cast<int64_t>(p.pages.size()));
  const Tensor position_T = a.alloc(DType::i32, {rows}), sequence_T = a.alloc(DType::i32, {rows}),
               pages_SP = a.alloc(DType::i32, {static_cast<int64_t>(parts.size()), most_pages});
  prompts_.clear();
  for (size_t i = 0; i < parts.size(); ++i) {
    const PassRows& p = parts[i];
    const int64_t n = static_cast<int64_t>(p.ids.size());
    check(p.begin >= 0 && p.begin + n <= context_ && pages_for(p.begin + n) <= static_cast<int64_t>(p.pages.size()),
          "Engine: rows outside the context or the pages");
    check(p.kind == RowKind::prompt || prompts_.empty(), "Engine: expected text before prompts");
    fill_rope(p.begin + n);
    std::iota(position_T.ptr<int32_t>() + row, position_T.ptr<int32_t>() + row + n, static_cast<int32_t>(p.begin));
    std::fill_n(sequence_T.ptr<int32_t>() + row, n, static_cast<int32_t>(i));
    int32_t* pages = static_cast<int32_t*>(pages_SP.at(static_cast<int64_t>(i)));
    std::copy(p.pages.begin(), p.pages.end(), pages);
    if (p.kind == RowKind::prompt)
      prompts_.push_back({row, n, p.begin, Tensor(pages, DType::i32, {static_cast<int64_t>(p.pages.size())})});
    else
      text_rows += n;
    row += n;
  }
  return {&config(),
          latent_shape(config()),
          router_config(config()),
          {position_T, sequence_T, pages_SP},
          text_rows,
          prompts_,
          rope_table_,
          &projector_,
          &route_observer_};
}

Tensor Engine::embed(Arena& a, std::span<const PassRows> parts, int64_t rows) {
  const Tensor ids_T = a.alloc(DType::i32, {rows}), x_TD = a.f32(rows, config().hidden_size);
  int32_t* out = ids_T.ptr<int32_t>();
  for (const PassRows& p : parts)
    for (const int32_t id : p.ids) {
      if (id < 0 || id >= config().vocab_size)
        fail("token ids: expected 0 to {} (vocab_size), found {}", config().vocab_size - 1, id);
      *out++ = id;
    }
  const Matrix& table = model_.weights.embed;
  const int64_t bytes = row_bytes(table.format, table.cols);
  if (!is_block_format(table.format)) embedding_forward(s_, x_TD, ids_T, table);
  for (int64_t t = 0; is_block_format(table.format) && t < rows; ++t)
    dequantize_row(static_cast<const std::byte*>(table.data) + ids_T.ptr<int32_t>()[t] * bytes, table.format,
                   table.cols, static_cast<float*>(x_TD.at(t)));
  projector_.release(table);
  return x_TD;
}

void Engine::forward(Tensor hidden_TD, std::span<const PassRows> parts) {
  const ArenaMark mark(workspace_);
  const InferPass p = pass(workspace_, parts, hidden_TD.rows());
  const Tensor h_TD = embed(workspace_, parts, hidden_TD.rows());
  for (size_t l = 0; l < blocks_.size(); ++l)
    infer_block(s_, workspace_, h_TD, blocks_[l], cache_.layer(static_cast<int64_t>(l)), p);
  infer_norm(s_, workspace_, hidden_TD, h_TD, final_norm_, static_cast<float>(config().rms_norm_eps));
}

void Engine::forward_mtp(Tensor z_TD, const Tensor& hidden_TD, std::span<const PassRows> parts) {
  check(mtp_.has_value(), "Engine::forward_mtp: expected an MTP module");
  const ArenaMark mark(workspace_);
  const InferPass p = pass(workspace_, parts, hidden_TD.rows());
  const Tensor e_TD = embed(workspace_, parts, hidden_TD.rows());
  infer_mtp(s_, workspace_, z_TD, hidden_TD, e_TD, *mtp_, cache_.layer(static_cast<int64_t>(blocks_.size())), p);
}

void Engine::logits(Tensor logits, const Tensor& hidden_TD) {
  const Matrix& head = model_.weights.head;
  for (int64_t t = 0; t < hidden_TD.rows(); t += pass_rows_) {  // what the working memory is for
    const ArenaMark mark(workspace_);
    const int64_t rows = std::min(pass_rows_, hidden_TD.rows() - t);
    const InferInput x = infer_input(s_, workspace_, hidden_TD.slice_rows(t, rows), {&head});
    projector_.project(s_, x, {{logits.slice_rows(t, rows), head}});
  }
}

}  // namespace sluice
