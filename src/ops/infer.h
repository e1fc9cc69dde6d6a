// Attention of the inference engine (products: ops/packed.h): float32 activations, and row-invariant. Every output
// element is summed in one fixed order, so row i has the same bits for any number of rows, neighbours, threads, chunks
// of a prompt and places of the cache's pages. T rows (tokens), K inputs, N outputs, H heads; x, y, q, u, o f32, rows
// may be strided.
#pragma once
#include "base/stream.h"
#include "ops/linear.h"
#include "ops/matrix.h"

namespace sluice {

/// Sizes of multi-head latent attention. A cached row is [latent after its norm | rope key after RoPE].
struct LatentShape {
  int64_t heads, nope, rope, value, latent;
  float scale;
  constexpr int64_t row() const { return latent + rope; }
};

/// Tokens of a page of the cache.
constexpr int64_t kPageTokens = 64;

/// Where the rows of a pass lie in a layer's cache `rows` (pages * 64, latent + rope; f32, packed; on a GPU bf16, too,
/// queries and probabilities being rounded to bf16 where they meet it): row t is position position_T[t] of sequence
/// sequence_T[t], and position p of sequence q lies in row pages_SP[q, p / 64] * 64 + p % 64.
struct CachePlaces {
  Tensor position_T, sequence_T;  // i32
  Tensor pages_SP;                // (sequences, most pages) i32; rows may be strided
};

/// Writes every row of x_TA (T, latent + rope) to its place.
void infer_cache_rows(Stream& s, Tensor rows, const Tensor& x_TA, const CachePlaces& places);

/// qa (T, H (latent + rope)), packed = per head [W_UK' q_nope | q_rope] from q (T, H (nope + rope)), packed, q_rope
/// rotated already. kv_b: (H (nope + value), latent), per head [W_UK | W_UV] (specification 2.8).
void infer_absorb_query(Stream& s, Tensor qa, const Tensor& q, const Matrix& kv_b, const LatentShape& shape);

/// u (T, H latent), packed: u_th = sum_j p_tj c_j over the positions j of the row's sequence up to its own,
/// p = softmax(scale qa_th . row_j) (specification 2.8). Softmax in float32. Keys are taken in splits of 512 positions
/// (on a GPU with a cache of bf16 of a length that depends on the row's own position), each with its own softmax, which
/// are merged in order; scores of one split and 16 heads are all that is stored.
void infer_attention(Stream& s, Tensor u, const Tensor& qa, const Tensor& rows, const CachePlaces& places,
                     const LatentShape& shape);

/// o (T, H value), packed: o_th = W_UV,h u_th.
void infer_expand_value(Stream& s, Tensor o, const Tensor& u, const Matrix& kv_b, const LatentShape& shape);

/// o (T, H value), packed: attention of T tokens at positions begin, begin + 1, ... of one sequence, whose page numbers
/// are pages_P (i32), over themselves and all before them, with keys and values expanded per head (specification 2.8,
/// prefill). q (T, H (nope + rope)), packed, q_rope rotated already. Keys are taken page by page, softmax in float32;
/// the expanded keys of at most kExpandedBytes are stored, and scores of one page and one block of tokens.
void infer_prompt_attention(Stream& s, Tensor o, const Tensor& q, const Tensor& rows, const Tensor& pages_P,
                            int64_t begin, const Matrix& kv_b, const LatentShape& shape);
constexpr int64_t kExpandedBytes = int64_t{64} << 20;

namespace cpu {
decltype(sluice::infer_cache_rows) infer_cache_rows;
decltype(sluice::infer_absorb_query) infer_absorb_query;
decltype(sluice::infer_attention) infer_attention;
decltype(sluice::infer_expand_value) infer_expand_value;
decltype(sluice::infer_prompt_attention) infer_prompt_attention;
}  // namespace cpu
namespace cuda {
decltype(sluice::infer_cache_rows) infer_cache_rows;
decltype(sluice::infer_absorb_query) infer_absorb_query;
decltype(sluice::infer_attention) infer_attention;
decltype(sluice::infer_expand_value) infer_expand_value;
decltype(sluice::infer_prompt_attention) infer_prompt_attention;
}  // namespace cuda

}  // namespace sluice
