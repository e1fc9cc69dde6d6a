// Memory of one attention head of one sequence on one thread: keys and values as packed float32, and the blocks of a
// pass over its queries.
#pragma once
#include "base/stream.h"
#include "ops/attention.h"
#include "ops/cpu/convert.h"

namespace sluice::cpu {

struct HeadIndex {
  int64_t sequence, head;
};

/// S keys, Q queries a block; W = nope + rope.
struct HeadBuffers {
  float *key, *value;      // (S, W), (S, value)
  float *d_key, *d_value;  // the same
  float *query, *d_query;  // (Q, W)
  float *out, *d_out;      // (Q, value)
  float *score, *d_score;  // (Q, S)

  HeadBuffers(Stream& s, int thread, const AttentionShape& a, int64_t queries) {
    const int64_t S = a.tokens, W = a.nope + a.rope;
    const size_t total = static_cast<size_t>(2 * S * (W + a.value) + 2 * queries * (W + a.value + S));
    float* p = s.scratch(thread, total);
    auto take = [&p](int64_t n) { return std::exchange(p, p + n); };
    key = take(S * W), value = take(S * a.value), d_key = take(S * W), d_value = take(S * a.value);
    query = take(queries * W), d_query = take(queries * W), out = take(queries * a.value);
    d_out = take(queries * a.value), score = take(queries * S), d_score = take(queries * S);
  }
};

/// Rows [row, row + rows) of head h in a tensor of `width` columns per head.
inline Tensor head_rows(const Tensor& t, int64_t row, int64_t rows, int64_t h, int64_t width) {
  return t.slice_rows(row, rows).slice_cols(h * width, width);
}

inline int64_t first_key(const Tensor& first_T, int64_t t) { return first_T ? first_T.ptr<int32_t>()[t] : 0; }

/// key = [k_nope | k_rope], value = v of head h of sequence b.
inline void load_keys(const HeadBuffers& k, const AttentionInputs& in, const AttentionShape& a, int64_t b, int64_t h) {
  const int64_t W = a.nope + a.rope, column = h * (a.nope + a.value);
  for (int64_t j = 0; j < a.tokens; ++j) {
    const int64_t row = b * a.tokens + j;
    convert(k.key + j * W, DType::f32, in.kv.at(row, column), in.kv.dtype, a.nope);
    convert(k.key + j * W + a.nope, DType::f32, in.k_rope.at(row), in.k_rope.dtype, a.rope);
    convert(k.value + j * a.value, DType::f32, in.kv.at(row, column + a.nope), in.kv.dtype, a.value);
  }
}

/// grad.kv of head h of sequence b, and the head's share of grad.k_rope into d_rope (S, rope).
inline void store_key_gradients(const HeadBuffers& k, const AttentionInputs& grad, float* d_rope,
                                const AttentionShape& a, int64_t b, int64_t h) {
  const int64_t W = a.nope + a.rope, column = h * (a.nope + a.value);
  for (int64_t j = 0; j < a.tokens; ++j) {
    const int64_t row = b * a.tokens + j;
    convert(grad.kv.at(row, column), grad.kv.dtype, k.d_key + j * W, DType::f32, a.nope);
    convert(grad.kv.at(row, column + a.nope), grad.kv.dtype, k.d_value + j * a.value, DType::f32, a.value);
    std::copy_n(k.d_key + j * W + a.nope, a.rope, d_rope + j * a.rope);
  }
}

}  // namespace sluice::cpu
