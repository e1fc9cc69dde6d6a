// The layers of the inference engine: float32 activations, row-invariant ops, attention over the latent cache in the
// absorbed form (specification 2.8). They share weights, config and ops with the training forward, not its code.
// T rows (tokens) of one or several sequences, D model.
#pragma once
#include <functional>
#include <span>

#include "base/arena.h"
#include "engine/project.h"
#include "model/config.h"
#include "model/weights.h"
#include "ops/infer.h"
#include "ops/moe.h"

namespace sluice {

/// A block's weights; the norms as float32, which the norm op wants beside float32 activations.
struct InferBlock {
  const BlockWeights* w = nullptr;
  Tensor attn_norm, ffn_norm, q_a_norm, kv_a_norm;
};

struct InferMtp {
  const MtpWeights* w = nullptr;
  Tensor enorm, hnorm, head_norm;
  InferBlock block;
};

/// Rows of one sequence's prompt in a pass.
struct PromptRows {
  int64_t row, count;  // in the pass
  int64_t begin;       // position of the first
  Tensor pages_P;      // of the sequence
};

/// Sees choice_TK (i32), the experts chosen for the rows of a pass, once for each layer that has experts, in order;
/// `router` identifies the layer.
using RouteObserver = std::function<void(const Tensor& choice_TK, const Matrix& router)>;

/// What the rows of a pass share. Rows of text come first; they attend in the absorbed form. Rows of prompts follow;
/// they attend with expanded keys and values, which is faster for many rows.
struct InferPass {
  const HfConfig* config;
  LatentShape shape;
  RouterConfig router;
  CachePlaces places;
  int64_t text_rows;
  std::span<const PromptRows> prompts;
  Tensor rope_table;  // (beyond every position, rope) f32
  Projector* projector;
  const RouteObserver* route_observer;  // may be empty
};

/// y = rmsnorm(x) w.
void infer_norm(Stream& s, Arena& a, Tensor y, const Tensor& x, const Tensor& w, float eps);

/// h = block(h): the rows' keys are written to the layer's `cache`, which holds those of all positions before them.
void infer_block(Stream& s, Arena& a, Tensor h_TD, const InferBlock& b, const Tensor& cache, const InferPass& pass);

/// z_TD = input of the head for the token after the next one (specification 4), from hidden_TD (after the final norm)
/// of the rows and e_TD, the embeddings of the tokens after them.
void infer_mtp(Stream& s, Arena& a, Tensor z_TD, const Tensor& hidden_TD, const Tensor& e_TD, const InferMtp& m,
               const Tensor& cache, const InferPass& pass);

}  // namespace sluice
