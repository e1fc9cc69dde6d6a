// Products and attention of the inference engine: float32 activations, and row-invariant. Every output element is
// summed in one fixed order, so row i has the same bits for any number of rows, neighbours, threads, chunks of a prompt
// and places of the cache's pages.
// T rows (tokens), K inputs, N outputs, H heads; x, y, q, u, o f32, rows may be strided.
#pragma once
#include "base/stream.h"
#include "ops/linear.h"
#include "ops/matrix.h"

namespace sluice {

/// y_TN (=|+=) x_TK w_NK'. fp8_128 weights are dequantised exactly (code times scale) and x is not quantised.
void infer_linear(Stream& s, Tensor y, const Tensor& x, const Matrix& w, Out out = Out::set);

/// y_RN = x_RK w_NK' with the matrix of each row's expert; `offsets_E1` as in ops/linear.h.
void infer_grouped_linear(Stream& s, Tensor y, const Tensor& x, const Tensor& offsets_E1, ExpertBank w);

/// Sizes of multi-head latent attention. A cached row is [latent after its norm | rope key after RoPE].
struct LatentShape {
  int64_t heads, nope, rope, value, latent;
  float scale;
  int64_t row() const { return latent + rope; }
};

/// Tokens of a page of the cache.
constexpr int64_t kPageTokens = 64;

/// The cached rows of one sequence in one layer: position p lies in row pages[p / 64] * 64 + p % 64 of `rows`.
struct LatentCache {
  Tensor rows;   // (pages * 64, latent + rope) f32, packed
  Tensor pages;  // i32
};

/// Writes row t of x_TA (T, latent + rope) to position position_T[t] (i32).
void infer_cache_rows(Stream& s, const LatentCache& cache, const Tensor& x_TA, const Tensor& position_T);

/// qa (T, H (latent + rope)), packed = per head [W_UK' q_nope | q_rope] from q (T, H (nope + rope)), packed, q_rope
/// rotated already. kv_b: (H (nope + value), latent), per head [W_UK | W_UV] (specification 2.8).
void infer_absorb_query(Stream& s, Tensor qa, const Tensor& q, const Matrix& kv_b, const LatentShape& shape);

/// u (T, H latent), packed: u_th = sum_j p_tj c_j over positions j <= position_T[t] (i32), p = softmax(scale qa_th .
/// row_j) (specification 2.8). Softmax in float32. Keys are taken in splits of 512 positions, each with its own
/// softmax, which are merged in order; scores of one split and 8 heads are all that is stored.
void infer_attention(Stream& s, Tensor u, const Tensor& qa, const LatentCache& cache, const Tensor& position_T,
                     const LatentShape& shape);

/// o (T, H value), packed: o_th = W_UV,h u_th.
void infer_expand_value(Stream& s, Tensor o, const Tensor& u, const Matrix& kv_b, const LatentShape& shape);

namespace cpu {
decltype(sluice::infer_linear) infer_linear;
decltype(sluice::infer_grouped_linear) infer_grouped_linear;
decltype(sluice::infer_cache_rows) infer_cache_rows;
decltype(sluice::infer_absorb_query) infer_absorb_query;
decltype(sluice::infer_attention) infer_attention;
decltype(sluice::infer_expand_value) infer_expand_value;
}  // namespace cpu

}  // namespace sluice
