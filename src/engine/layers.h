// The layers of the inference engine: float32 activations, row-invariant ops, attention over the latent cache in the
// absorbed form (specification 2.8). They share weights, config and ops with the training forward, not its code.
// T rows (tokens) of one or several sequences, D model.
#pragma once
#include <functional>
#include <span>

#include "base/arena.h"
#include "engine/expert_ranks.h"
#include "engine/project.h"
#include "model/config.h"
#include "model/weights.h"
#include "ops/fused.h"
#include "ops/infer.h"
#include "ops/moe.h"

namespace sluice {

/// A block's weights; the norms as float32, which the norm op wants beside float32 activations.
struct InferBlock {
  const BlockWeights* w = nullptr;
  Tensor attn_norm, ffn_norm, q_a_norm, kv_a_norm;
  const InferBlock* next = nullptr;    // the block after it, if that has routed experts to be expected
  const PackedHeads* heads = nullptr;  // of kv_b, where the fused ops of a GPU are for it (engine/fused_block.h)
};

struct InferMtp {
  const MtpWeights* w = nullptr;
  Tensor enorm, hnorm, head_norm;
  InferBlock block;
};

/// The blocks of weights; `as_f32` makes a float32 tensor (1, columns) of a norm.
template <class F>
InferBlock make_infer_block(const BlockWeights& w, const F& as_f32) {
  return {&w, as_f32(w.attn_norm), as_f32(w.ffn_norm), w.mla.q_a ? as_f32(w.mla.q_a_norm) : Tensor(),
          as_f32(w.mla.kv_a_norm)};
}
template <class F>
InferMtp make_infer_mtp(const MtpWeights& w, const F& as_f32) {
  return {&w, as_f32(w.enorm), as_f32(w.hnorm), as_f32(w.head_norm), make_infer_block(w.block, as_f32)};
}

/// Rows of one sequence's prompt in a pass.
struct PromptRows {
  int64_t row, count;  // in the pass
  int64_t begin;       // position of the first
  Tensor pages_P;      // of the sequence
};

/// Sees choice_TK (i32), the experts chosen for the rows of a pass, once for each layer that has experts, in order;
/// `router` identifies the layer.
using RouteObserver = std::function<void(const Tensor& choice_TK, const Matrix& router)>;

/// Most rows of a pass: bounds the working memory.
constexpr int64_t kPassRows = 1024;
/// On a GPU, which wants more to be busy with.
constexpr int64_t kGpuPassRows = 4096;

/// What the rows of a pass share. Rows of text come first; they attend in the absorbed form. Rows of prompts follow;
/// they attend with expanded keys and values, which is faster for many rows.
struct InferPass {
  const HfConfig* config;
  LatentShape shape;
  RouterConfig router;
  CachePlaces places;
  int64_t text_rows, text_keys;  // the latter: positions that these attend to
  std::span<const PromptRows> prompts;
  Tensor rope_table;  // (beyond every position, rope) f32
  Projector* projector;
  const RouteObserver* route_observer;  // may be empty
  ExpertRanks* ranks = nullptr;         // null: all routed experts are here
};

/// What the attention of the pass's text reads, of a cache with elements of so many bytes, and computes.
Projector::Work text_work(const InferPass& pass, const Matrix& kv_b, size_t element);

/// y = rmsnorm(x) w.
void infer_norm(Stream& s, Arena& a, Tensor y, const Tensor& x, const Tensor& w, float eps);

/// h = block(h): the rows' keys are written to the layer's `cache`, which holds those of all positions before them.
void infer_block(Stream& s, Arena& a, Tensor h_TD, const InferBlock& b, const Tensor& cache, const InferPass& pass);

/// z_TD = input of the head for the token after the next one (specification 4), from hidden_TD (after the final norm)
/// of the rows and e_TD, the embeddings of the tokens after them.
void infer_mtp(Stream& s, Arena& a, Tensor z_TD, const Tensor& hidden_TD, const Tensor& e_TD, const InferMtp& m,
               const Tensor& cache, const InferPass& pass);

}  // namespace sluice
