#include "engine/engine.h"

#include <algorithm>
#include <numeric>

#include "ops/elementwise.h"
#include "ops/embedding.h"

namespace sluice {
namespace {

constexpr int64_t kMaxContext = int64_t{1} << 24;
constexpr int64_t kFirstRopeRows = 2048;

int64_t checked_context(const HfConfig& c, int64_t context) {
  const int64_t n = context ? context : c.max_position_embeddings;
  if (n < 1 || n > kMaxContext) fail("context: expected 1 to {} tokens, found {}", kMaxContext, n);
  return n;
}

int64_t pages_for(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

LatentShape latent_shape(const HfConfig& c) {
  return {c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim,
          c.v_head_dim,          c.kv_lora_rank,     softmax_scale(c)};
}

size_t norm_bytes(const HfConfig& c, size_t mtp_modules) {
  const int64_t per_block = 2 * c.hidden_size + c.q_lora_rank + c.kv_lora_rank + 64;
  const int64_t blocks = c.num_hidden_layers + static_cast<int64_t>(mtp_modules);
  return static_cast<size_t>(blocks * per_block + (1 + 3 * static_cast<int64_t>(mtp_modules)) * (c.hidden_size + 16)) *
         sizeof(float);
}

}  // namespace

Engine::Engine(Stream& s, const Model& model, const EngineOptions& options)
    : s_(s),
      model_(model),
      context_(checked_context(model.config, options.context)),
      norms_(norm_bytes(model.config, model.weights.mtp.size())),
      rope_memory_(static_cast<size_t>(context_ * model.config.qk_rope_head_dim) * sizeof(float) + 64),
      rope_table_(rope_memory_.f32(context_, model.config.qk_rope_head_dim)),
      cache_(model.config.num_hidden_layers + (model.weights.mtp.empty() ? 0 : 1), latent_shape(model.config).row(),
             pages_for(std::max(context_, options.tokens))),
      workspace_(0) {
  const ModelWeights& w = model.weights;
  for (const BlockWeights& b : w.layers) blocks_.push_back(block(b));
  final_norm_ = as_f32(w.norm);
  if (!w.mtp.empty()) {
    const MtpWeights& m = w.mtp.front();
    mtp_ = InferMtp{&m, as_f32(m.enorm), as_f32(m.hnorm), as_f32(m.head_norm), block(m.block)};
  }
  workspace_ = Arena(workspace_bytes());
}

Tensor Engine::as_f32(const Matrix& norm) {
  const Tensor t = norms_.f32(1, norm.cols);
  copy(s_, t, norm.tensor());
  return t;
}

InferBlock Engine::block(const BlockWeights& w) {
  return {&w, as_f32(w.attn_norm), as_f32(w.ffn_norm), w.mla.q_a ? as_f32(w.mla.q_a_norm) : Tensor(),
          as_f32(w.mla.kv_a_norm)};
}

size_t Engine::workspace_bytes() const {
  Stream dry = Stream::dry();
  Arena a = Arena::counting();
  const int64_t T = kPassRows, D = config().hidden_size;
  const InferPass p{&config(), latent_shape(config()), router_config(config()), a.alloc(DType::i32, {T}), rope_table_};
  const Tensor ids = a.alloc(DType::i32, {T}), h_TD = a.f32(T, D), z_TD = a.f32(T, D);
  const LatentCache cache{cache_.layer(0), ids};
  for (const InferBlock& b : blocks_) infer_block(dry, a, h_TD, b, cache, p);
  if (mtp_) infer_mtp(dry, a, z_TD, h_TD, h_TD, *mtp_, cache, p);
  return a.peak_bytes();
}

InferPass Engine::pass(Arena& a, int64_t begin, int64_t rows) {
  check(rows >= 1 && rows <= kPassRows && begin >= 0 && begin + rows <= context_, "Engine: rows outside the context");
  if (begin + rows > rope_rows_) {
    rope_rows_ = std::min(context_, std::max(kFirstRopeRows, 2 * (begin + rows)));
    fill_rope_table(config(), rope_table_.slice_rows(0, rope_rows_));
  }
  InferPass p{&config(), latent_shape(config()), router_config(config()), a.alloc(DType::i32, {rows}), rope_table_};
  std::iota(p.position_T.ptr<int32_t>(), p.position_T.ptr<int32_t>() + rows, static_cast<int32_t>(begin));
  return p;
}

Tensor Engine::embed(Arena& a, std::span<const int32_t> ids) {
  const int64_t T = static_cast<int64_t>(ids.size());
  const Tensor ids_T = a.alloc(DType::i32, {T}), x_TD = a.f32(T, config().hidden_size);
  for (const int32_t id : ids)
    if (id < 0 || id >= config().vocab_size)
      fail("token ids: expected 0 to {} (vocab_size), found {}", config().vocab_size - 1, id);
  std::copy(ids.begin(), ids.end(), ids_T.ptr<int32_t>());
  embedding_forward(s_, x_TD, ids_T, model_.weights.embed);
  return x_TD;
}

void Engine::forward(Tensor hidden_TD, std::span<const int32_t> ids, int64_t begin, const Tensor& pages) {
  const size_t mark = workspace_.mark();
  const InferPass p = pass(workspace_, begin, static_cast<int64_t>(ids.size()));
  const Tensor h_TD = embed(workspace_, ids);
  for (size_t l = 0; l < blocks_.size(); ++l)
    infer_block(s_, workspace_, h_TD, blocks_[l], {cache_.layer(static_cast<int64_t>(l)), pages}, p);
  infer_norm(s_, workspace_, hidden_TD, h_TD, final_norm_, static_cast<float>(config().rms_norm_eps));
  workspace_.release(mark);
}

void Engine::forward_mtp(Tensor z_TD, const Tensor& hidden_TD, std::span<const int32_t> next_ids, int64_t begin,
                         const Tensor& pages) {
  check(mtp_.has_value() && hidden_TD.rows() == static_cast<int64_t>(next_ids.size()), "Engine::forward_mtp: rows");
  const size_t mark = workspace_.mark();
  const InferPass p = pass(workspace_, begin, hidden_TD.rows());
  const Tensor e_TD = embed(workspace_, next_ids);
  infer_mtp(s_, workspace_, z_TD, hidden_TD, e_TD, *mtp_, {cache_.layer(static_cast<int64_t>(blocks_.size())), pages},
            p);
  workspace_.release(mark);
}

void Engine::logits(Tensor logits, const Tensor& hidden_TD) {
  infer_linear(s_, logits, hidden_TD, model_.weights.head);
}

}  // namespace sluice
