// Ops of inference on a GPU that are several others at once, because a launch costs as much as a small op: for models
// whose products round activations to bf16 (Activations::halves in ops/packed.h). Each gives what the ops it
// names give, to the bit but for rotations. T rows (tokens), H heads, D columns, E experts, K experts per token, R = T
// K rows.
#pragma once
#include "base/rng.h"
#include "base/stream.h"
#include "ops/infer.h"
#include "ops/packed.h"

namespace sluice {

/// rmsnorm_forward(x (T, D) f32, w (1, D) f32), then prepare_rows() of the result: `halves`, and unless it is empty
/// `floats`. D is a multiple of 8.
void norm_rows(Stream& s, const PreparedRows& halves, const PreparedRows& floats, const Tensor& x, const Tensor& w,
               float eps);

/// swiglu_forward(g, u (T, D) f32, packed), then prepare_rows(). D is a multiple of 8.
void swiglu_rows(Stream& s, const PreparedRows& halves, const Tensor& g, const Tensor& u);

/// What the first products of attention give, and the norms that follow.
struct LatentInputs {
  Tensor raw_TA, c_TQ;     // f32: [latent | rope key], latent queries
  Tensor kv_norm, q_norm;  // (1, latent), (1, Q) f32
  Tensor rope_table;       // as in ops/rope.h
  float eps = 0;
};

/// The keys of the rows into a cache of bf16: rmsnorm_forward of the latent, rope_forward of the rest, which are then
/// infer_cache_rows(); and norm_rows() of the latent queries.
void latent_rows(Stream& s, Tensor cache, const PreparedRows& q, const LatentInputs& in, const CachePlaces& places);

/// Of queries q (T, H (nope + rope)) f32: rope_forward of their rope parts, in place for rows from `text_rows` on; for
/// those before, into qa (text_rows, H (latent + rope)) f32, whose other columns are not written, while their nope
/// parts become the rows of `nope` (text_rows, H nope).
void query_rows(Stream& s, Tensor qa, const PreparedRows& nope, Tensor q, const Tensor& position_T,
                const Tensor& rope_table, const LatentShape& shape);

/// Both halves of kv_b by head: W_UK transposed (latent, nope) and W_UV (value, latent), as packed bf16.
struct PackedHeads {
  PackedBank key, value;
};
/// Bytes of their matrices.
size_t packed_heads_bytes(const LatentShape& shape);
/// Fills `memory` (64-byte aligned) from kv_b in bf16, in memory of the GPU's.
PackedHeads pack_heads(Stream& s, std::byte* memory, const Matrix& kv_b, const LatentShape& shape);

/// infer_absorb_query() with queries rounded to bf16, without the rope parts, which query_rows() writes.
void absorb_rows(Stream& s, Tensor qa, const PreparedRows& nope, const PackedHeads& w, const LatentShape& shape);
/// infer_expand_value() with u (T, H latent) rounded to bf16.
void expand_rows(Stream& s, Tensor o, const PreparedRows& u, const PackedHeads& w, const LatentShape& shape);

/// h (T, D) += what moe_combine_forward() adds, then row T K + t of y to row t where y has as many.
void combine_rows(Stream& s, Tensor h, const Tensor& y_RD, const Tensor& weight_TK, const Tensor& row_of_TK);

/// What draw_rows() needs of a draw: one as by `draw()` with a rule of this temperature alone, and the noise of this
/// key.
struct DrawKey {
  float temperature = 1;
  uint32_t low = 0, high = 0;  // of the key

  static DrawKey of(float temperature, const Rng& noise) {
    return {temperature, static_cast<uint32_t>(noise.key()), static_cast<uint32_t>(noise.key() >> 32)};
  }
};
/// ids_T (i32) = the draw from each row of logits among the first `limit`; keys (T, 3) i32 are DrawKeys. -1 where the
/// first two of a race arrive so close together that float32 may not tell which draw() takes.
void draw_rows(Stream& s, Tensor ids_T, const Tensor& logits, const Tensor& keys, int64_t limit);

namespace cuda {
decltype(sluice::norm_rows) norm_rows;
decltype(sluice::swiglu_rows) swiglu_rows;
decltype(sluice::latent_rows) latent_rows;
decltype(sluice::query_rows) query_rows;
decltype(sluice::pack_heads) pack_heads;
decltype(sluice::absorb_rows) absorb_rows;
decltype(sluice::expand_rows) expand_rows;
decltype(sluice::combine_rows) combine_rows;
decltype(sluice::draw_rows) draw_rows;
}  // namespace cuda

}  // namespace sluice
