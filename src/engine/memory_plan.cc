#include "engine/memory_plan.h"

#include <algorithm>

#include "engine/expert_cache.h"
#include "engine/fused_block.h"
#include "engine/gpu_weights.h"
#include "engine/kv_cache.h"
#include "ops/block_format.h"

namespace sluice {
namespace {

constexpr int64_t kMaxContext = int64_t{1} << 24;
/// Program, tokenizer and tables.
constexpr size_t kProgramBytes = size_t{32} << 20;
/// Rows of a pass are halved until its working memory is at most this share of the bound.
constexpr size_t kPassShare = 16;
constexpr int64_t kLeastPassRows = 32;
/// On a GPU: scratch memory of ops and what CUDA takes itself; most bytes of logits at a time.
constexpr size_t kGpuOpBytes = size_t{512} << 20;
constexpr int64_t kGpuLogitBytes = int64_t{136} << 20;  // of 256 rows where there are 129,280 ids

bool is_expert(const Param& p) { return p.name.find(".mlp.experts.") != std::string::npos; }

bool is_mapped(const Model& m, const Matrix& w) {
  return std::any_of(m.mappings.begin(), m.mappings.end(), [&](const MappedFile& f) { return f.contains(w.data); });
}

/// What stays in memory of a matrix that is no routed expert's.
size_t resident_bytes(const Model& m, const Param& p) {
  const Matrix& w = *p.matrix;
  const bool is_packed = p.kind != ParamKind::norm && p.kind != ParamKind::router_bias &&
                         p.kind != ParamKind::embedding && !p.name.ends_with("kv_b_proj.weight");
  const bool is_read_in_place = is_mapped(m, w) && (is_packed || p.kind == ParamKind::embedding);
  return (is_packed ? packed_bytes(w.format, w.rows, w.cols) : 0) + (is_read_in_place ? 0 : matrix_bytes(w));
}

/// Working memory of attention over expanded keys, as the op allocates it.
size_t prompt_bytes(const HfConfig& c, int64_t context) {
  const LatentShape a = latent_shape(c);
  const int64_t head = pages_for(context) * kPageTokens * (a.nope + a.rope + a.value) * 4;
  return static_cast<size_t>(std::max(head, std::min(kExpandedBytes, head * a.heads)) * 5 / 4);
}

}  // namespace

int64_t checked_context(const HfConfig& c, int64_t context) {
  const int64_t n = context ? context : c.max_position_embeddings;
  if (n < 1 || n > kMaxContext) fail("context: expected 1 to {} tokens, found {}", kMaxContext, n);
  return n;
}

LatentShape latent_shape(const HfConfig& c) {
  return {c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim,
          c.v_head_dim,          c.kv_lora_rank,     softmax_scale(c)};
}

int64_t pages_for(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

size_t pass_bytes(const HfConfig& c, const ModelWeights& w, int64_t context, int64_t T, const Device& device) {
  Stream dry = Stream::dry();
  Arena a = Arena::counting(device), fixed = Arena::counting();
  const auto norm = [&](const Matrix& n) { return fixed.f32(1, n.cols); };
  if (device.is_cuda()) a.f32(2 * T, c.hidden_size);  // hidden states on their way in and out
  const Tensor ids = a.alloc(DType::i32, {T}), h_TD = a.f32(T, c.hidden_size), z_TD = a.f32(T, c.hidden_size);
  const Tensor rope = fixed.f32(context, c.qk_rope_head_dim);
  const LatentShape shape = latent_shape(c);
  const Tensor cache = fixed.f32(pages_for(context) * kPageTokens, shape.row());
  const CachePlaces places{ids, a.alloc(DType::i32, {T}),
                           a.alloc(DType::i32, {T, pages_for(context) + (device.is_cuda() ? kGpuPageStep : 0)})};
  Projector none(0);
  const RouteObserver nobody;
  const InferPass p{&c, shape, router_config(c), places, T, 0, {}, rope, &none, &nobody};
  const PackedHeads some_heads;
  const auto block_of = [&](const BlockWeights& b) {
    InferBlock block = make_infer_block(b, norm);
    if (has_fused_ops(b, c, device)) block.heads = &some_heads;
    return block;
  };
  const BlockWeights* after = nullptr;
  for (auto b = w.layers.rbegin(); b != w.layers.rend(); after = &*b++) {
    InferBlock next;
    if (after) next = make_infer_block(*after, norm);
    InferBlock block = block_of(*b);
    block.next = after && after->is_moe ? &next : nullptr;
    infer_block(dry, a, h_TD, block, cache, p);
  }
  if (!w.mtp.empty()) {
    InferMtp mtp = make_infer_mtp(w.mtp.front(), norm);
    mtp.block = block_of(w.mtp.front().block);
    infer_mtp(dry, a, z_TD, h_TD, h_TD, mtp, cache, p);
  }
  infer_input(dry, a, h_TD, {&w.head});
  if (device.is_cuda()) a.f32(gpu_logit_rows(c), c.vocab_size);
  return a.peak_bytes();
}

GpuPlan plan_gpu(const Model& m, const EngineOptions& options, const Device& gpu) {
  const HfConfig& c = m.config;
  const int64_t context = checked_context(c, options.context);
  const int64_t layers = c.num_hidden_layers + (m.weights.mtp.empty() ? 0 : 1);
  GpuPlan plan;
  plan.weights = GpuWeights::bytes(m.weights, c, gpu);
  plan.sequences = KvCache::bytes(layers, latent_shape(c).row(), pages_for(std::max(context, options.tokens)),
                                  gpu_cache_dtype(m.weights)) +
                   static_cast<size_t>(context * c.qk_rope_head_dim) * sizeof(float);
  plan.workspace = pass_bytes(c, GpuWeights::shapes(m.weights, gpu), context, kGpuPassRows, gpu) + kGpuOpBytes;
  return plan;
}

DType gpu_cache_dtype(const ModelWeights& w) {
  return w.layers.front().mla.kv_b.format == Format::f32 ? DType::f32 : DType::bf16;
}

std::string why_too_large(const GpuPlan& p, size_t available) {
  if (p.bytes() <= available) return {};
  const auto gib = [](size_t bytes) { return static_cast<double>(bytes) / (1 << 30); };
  return fmt::format(
      "expected {:.2f} GiB of free memory ({:.2f} for weights, {:.2f} for tokens, {:.2f} to work in), found {:.2f}",
      gib(p.bytes()), gib(p.weights), gib(p.sequences), gib(p.workspace), gib(available));
}

int64_t gpu_logit_rows(const HfConfig& c) {
  return std::clamp<int64_t>(kGpuLogitBytes / (c.vocab_size * static_cast<int64_t>(sizeof(float))), 1, kGpuPassRows);
}

MemoryPlan plan_memory(const Model& m, const EngineOptions& options) {
  const HfConfig& c = m.config;
  const int64_t context = checked_context(c, options.context);
  MemoryPlan plan;
  plan.budget = options.memory;
  plan.weights = kProgramBytes;
  ModelWeights shapes = m.weights;
  for (const Param& p : parameters(shapes))
    if (!is_expert(p)) {
      plan.weights += resident_bytes(m, p);
    } else if (!is_mapped(m, *p.matrix)) {
      fail(
          "--memory: expected experts in a GGUF file, in a type other than f16 (sluice quantize makes it), found "
          "others: {}",
          p.name);
    }
  plan.sequences =
      static_cast<size_t>(pages_for(std::max(context, options.tokens)) * kPageTokens * latent_shape(c).row() * 4 *
                          (c.num_hidden_layers + (m.weights.mtp.empty() ? 0 : 1))) +
      static_cast<size_t>(context * c.qk_rope_head_dim * 4);
  int64_t moe_layers = 0;
  for (const MoeWeights* w : expert_layers(m.weights)) {
    ++moe_layers;
    plan.experts += static_cast<int64_t>(w->gate.size());
    plan.slot_bytes = std::max(plan.slot_bytes, ExpertCache::slot_bytes(*w));
    const size_t one = static_cast<size_t>(w->gate[0].rows * row_bytes(w->gate[0].format, w->gate[0].cols) +
                                           w->up[0].rows * row_bytes(w->up[0].format, w->up[0].cols) +
                                           w->down[0].rows * row_bytes(w->down[0].format, w->down[0].cols));
    plan.token_bytes += one * static_cast<size_t>(c.num_experts_per_tok);
  }
  if (moe_layers == 0) fail("--memory: expected a model with routed experts, found none");
  for (plan.pass_rows = kPassRows;; plan.pass_rows /= 2) {
    plan.workspace =
        pass_bytes(c, m.weights, context, plan.pass_rows) + prompt_bytes(c, context) + ExpertCache::reading_bytes(m);
    if (plan.pass_rows == kLeastPassRows || plan.workspace <= plan.budget / kPassShare) break;
  }
  const size_t others = plan.weights + plan.sequences + plan.workspace;
  const size_t least = others + plan.slot_bytes * static_cast<size_t>(c.num_experts_per_tok);
  const auto mib = [](size_t bytes) { return (bytes + (1 << 20) - 1) >> 20; };
  if (plan.budget < least)
    fail(
        "--memory: expected at least {} MiB ({} for weights other than routed experts, {} for {} tokens of context, {} "
        "to work in, {} for the experts of one token in one layer), found {}",
        mib(least), mib(plan.weights), mib(plan.sequences), context, mib(plan.workspace), mib(least - others),
        plan.budget >> 20);
  plan.slots = std::min(plan.experts, static_cast<int64_t>((plan.budget - others) / plan.slot_bytes));
  return plan;
}

}  // namespace sluice
