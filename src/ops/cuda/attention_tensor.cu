// Attention of bf16 heads on tensor cores, in tiles: scores live in registers, P and its gradient are rounded to bf16
// to be multiplied again. A warp takes 16 queries (forward, gradient of the queries) or 16 keys (their gradients).
// Smaller heads are padded with zeros to the size of the kernel.
#include "ops/cuda/attention_tensor.h"

#include "ops/cuda/attention_tile.cuh"

namespace sluice::cuda {
namespace {

constexpr int kThreads = kAttentionThreads, kRows = 64, kPad = kAttentionPad;

struct Inputs {
  Rows<const half_t> q, kv, k_rope;
  bool is_vector;  // whether any 8 columns from a multiple of 8 on can be loaded at once
};

/// Where a block works.
struct Head {
  int64_t row0;
  int h, tokens, nope, rope, value;
  __device__ HeadRow query(const Inputs& in, int t) const {
    return {in.q[row0 + t] + h * (nope + rope), nullptr, nope + rope, 0};
  }
  __device__ HeadRow key(const Inputs& in, int t) const {
    return {in.kv[row0 + t] + h * (nope + value), in.k_rope[row0 + t], nope, rope};
  }
  __device__ HeadRow values(const Inputs& in, int t) const {
    return {in.kv[row0 + t] + h * (nope + value) + nope, nullptr, value, 0};
  }
  __device__ HeadRow output(Rows<const half_t> o, int t) const { return {o[row0 + t] + h * value, nullptr, value, 0}; }
};
__device__ Head head_of_block(const AttentionShape& a) {
  return {static_cast<int64_t>(blockIdx.y / a.heads) * a.tokens,
          static_cast<int>(blockIdx.y % a.heads),
          static_cast<int>(a.tokens),
          static_cast<int>(a.nope),
          static_cast<int>(a.rope),
          static_cast<int>(a.value)};
}

/// put(column, value) for the columns below `end` of a thread's row r (of two) of kN.
template <int kN, class Put>
__device__ __forceinline__ void each_column(const float (&c)[kN / 8][4], int r, int end, Put put) {
#pragma unroll
  for (int n = 0; n < kN / 8; ++n)
#pragma unroll
    for (int i = 2 * r; i < 2 * r + 2; ++i)
      if (8 * n + mma_col(i) < end) put(8 * n + mma_col(i), c[n][i]);
}

/// Which keys query t sees.
struct Seen {
  int t, first;
  __device__ bool operator()(int key) const { return key <= t && key >= first; }
};

/// The softmax of a thread's row r (of two) so far, of which `out` are the weighted values.
struct SoftmaxRow {
  float most = -INFINITY, total = 0;

  /// Takes the scores of kRows keys from `key` on in, which become their weights.
  template <int kV>
  __device__ __forceinline__ void take(float (&score)[kRows / 8][4], float (&out)[kV / 8][4], int r, int key,
                                       const Seen& sees, float scale) {
    float largest = most;
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
      for (int c = 2 * r; c < 2 * r + 2; ++c)
        if (sees(key + 8 * n + mma_col(c))) largest = fmaxf(largest, score[n][c] * scale);
    largest = row_max(largest);
    const float keep = most == -INFINITY ? 0.0f : expf(most - largest);
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
      for (int c = 2 * r; c < 2 * r + 2; ++c) {
        score[n][c] = sees(key + 8 * n + mma_col(c)) ? expf(score[n][c] * scale - largest) : 0.0f;
        sum += score[n][c];
      }
    total = total * keep + row_sum(sum);
    most = largest;
#pragma unroll
    for (int n = 0; n < kV / 8; ++n) out[n][2 * r] *= keep, out[n][2 * r + 1] *= keep;
  }
};

template <int kW, int kV>
__global__ __launch_bounds__(kThreads) void forward(Rows<half_t> o, float* lse, Inputs in, const int32_t* first_T,
                                                    AttentionShape a) {
  extern __shared__ __align__(16) uint16_t shared[];
  uint16_t *query = shared, *key = query + kRows * (kW + kPad), *value = key + kRows * (kW + kPad);
  const Head k = head_of_block(a);
  const int begin = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;  // the longest first
  const int row = static_cast<int>(threadIdx.x) / 32 * 16;
  float out[kV / 8][4] = {};
  SoftmaxRow softmax[2];
  Seen sees[2];
  for (int r = 0; r < 2; ++r) {
    const int t = begin + row + mma_row(2 * r);
    sees[r] = {t, first_T && t < k.tokens ? first_T[k.row0 + t] : 0};
  }
  fill<kRows, kW>(query, begin, k.tokens, in.is_vector, [&](int t) { return k.query(in, t); });
  for (int j = 0; j < min(begin + kRows, k.tokens); j += kRows) {
    __syncthreads();
    fill<kRows, kW>(key, j, k.tokens, in.is_vector, [&](int t) { return k.key(in, t); });
    fill<kRows, kV>(value, j, k.tokens, in.is_vector, [&](int t) { return k.values(in, t); });
    __syncthreads();
    float score[kRows / 8][4];
    products<kRows, kW>(score, query, row, key);
#pragma unroll
    for (int r = 0; r < 2; ++r) softmax[r].take<kV>(score, out, r, j, sees[r], a.scale);
    accumulate<kRows, kV>(out, score, value);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int t = sees[r].t;
    if (t >= k.tokens) continue;
    half_t* to = o[k.row0 + t] + k.h * k.value;
    each_column<kV>(out, r, k.value, [&](int column, float v) { store(to + column, v / softmax[r].total); });
    if (threadIdx.x % 4 == 0) lse[(k.row0 + t) * a.heads + k.h] = softmax[r].most + logf(softmax[r].total);
  }
}

/// p := exp(scale p - lse), d := scale p (d - delta) for query t and key j; 0 where t does not see j.
__device__ void score_gradient(float& p, float& d, bool is_seen, float scale, float lse, float delta) {
  p = is_seen ? expf(p * scale - lse) : 0.0f;
  d = is_seen ? scale * p * (d - delta) : 0.0f;
}

template <int kW, int kV>
__global__ __launch_bounds__(kThreads) void backward_queries(Rows<half_t> dq, Rows<const half_t> d_o, Inputs in,
                                                             AttentionKnown f, AttentionShape a) {
  extern __shared__ __align__(16) uint16_t shared[];
  uint16_t *query = shared, *key = query + kRows * (kW + kPad), *value = key + kRows * (kW + kPad);
  uint16_t* d_out = value + kRows * (kV + kPad);
  const Head k = head_of_block(a);
  const int begin = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;
  const int row = static_cast<int>(threadIdx.x) / 32 * 16;
  float d_query[kW / 8][4] = {}, lse[2] = {}, delta[2] = {};
  int first[2] = {};
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t t = begin + row + mma_row(2 * r);
    if (t >= k.tokens) continue;
    lse[r] = f.lse[(k.row0 + t) * a.heads + k.h];
    delta[r] = f.delta[(k.row0 + t) * a.heads + k.h];
    first[r] = f.first_T ? f.first_T[k.row0 + t] : 0;
  }
  fill<kRows, kW>(query, begin, k.tokens, in.is_vector, [&](int t) { return k.query(in, t); });
  fill<kRows, kV>(d_out, begin, k.tokens, in.is_vector, [&](int t) { return k.output(d_o, t); });
  for (int j = 0; j < min(begin + kRows, k.tokens); j += kRows) {
    __syncthreads();
    fill<kRows, kW>(key, j, k.tokens, in.is_vector, [&](int t) { return k.key(in, t); });
    fill<kRows, kV>(value, j, k.tokens, in.is_vector, [&](int t) { return k.values(in, t); });
    __syncthreads();
    float p[kRows / 8][4], d[kRows / 8][4];
    products<kRows, kW>(p, query, row, key);
    products<kRows, kV>(d, d_out, row, value);
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int t = begin + row + mma_row(c), at = j + 8 * n + mma_col(c);
        const bool is_seen = t < k.tokens && at <= t && at >= first[c / 2];
        score_gradient(p[n][c], d[n][c], is_seen, a.scale, lse[c / 2], delta[c / 2]);
      }
    accumulate<kRows, kW>(d_query, d, key);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int t = begin + row + mma_row(2 * r);
    if (t >= k.tokens) continue;
    half_t* to = dq[k.row0 + t] + k.h * (k.nope + k.rope);
    each_column<kW>(d_query, r, k.nope + k.rope, [&](int column, float v) { store(to + column, v); });
  }
}

constexpr int kQueries = 32;  // of a tile, where keys own the registers

template <int kW, int kV>
__global__ __launch_bounds__(kThreads) void backward_keys(Rows<half_t> dkv, Rows<const half_t> d_o, Inputs in,
                                                          AttentionKnown f, AttentionShape a) {
  extern __shared__ __align__(16) uint16_t shared[];
  uint16_t *key = shared, *value = key + kRows * (kW + kPad), *query = value + kRows * (kV + kPad);
  uint16_t* d_out = query + kQueries * (kW + kPad);
  __shared__ float lse[kQueries], delta[kQueries];
  __shared__ int first[kQueries];
  const Head k = head_of_block(a);
  const int begin = static_cast<int>(blockIdx.x) * kRows, row = static_cast<int>(threadIdx.x) / 32 * 16;
  float d_key[kW / 8][4] = {}, d_value[kV / 8][4] = {};
  fill<kRows, kW>(key, begin, k.tokens, in.is_vector, [&](int t) { return k.key(in, t); });
  fill<kRows, kV>(value, begin, k.tokens, in.is_vector, [&](int t) { return k.values(in, t); });
  for (int i = begin; i < k.tokens; i += kQueries) {
    __syncthreads();
    fill<kQueries, kW>(query, i, k.tokens, in.is_vector, [&](int t) { return k.query(in, t); });
    fill<kQueries, kV>(d_out, i, k.tokens, in.is_vector, [&](int t) { return k.output(d_o, t); });
    if (threadIdx.x < kQueries && i + static_cast<int>(threadIdx.x) < k.tokens) {
      const int64_t t = k.row0 + i + threadIdx.x;
      lse[threadIdx.x] = f.lse[t * a.heads + k.h];
      delta[threadIdx.x] = f.delta[t * a.heads + k.h];
      first[threadIdx.x] = f.first_T ? f.first_T[t] : 0;
    }
    __syncthreads();
    float p[kQueries / 8][4], d[kQueries / 8][4];
    products<kQueries, kW>(p, key, row, query);
    products<kQueries, kV>(d, value, row, d_out);
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int column = 8 * n + mma_col(c), t = i + column, at = begin + row + mma_row(c);
        const bool is_seen = t < k.tokens && at <= t && at >= first[column];
        score_gradient(p[n][c], d[n][c], is_seen, a.scale, lse[column], delta[column]);
      }
    accumulate<kQueries, kV>(d_value, p, d_out);
    accumulate<kQueries, kW>(d_key, d, query);
  }
  const int64_t all = a.batch * a.tokens;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int t = begin + row + mma_row(2 * r);
    if (t >= k.tokens) continue;
    half_t* to = dkv[k.row0 + t] + k.h * (k.nope + k.value);
    float* d_rope = f.d_rope_HTR + (k.h * all + k.row0 + t) * k.rope;
    each_column<kW>(d_key, r, k.nope + k.rope, [&](int column, float v) {
      if (column < k.nope)
        store(to + column, v);
      else
        d_rope[column - k.nope] = v;
    });
    each_column<kV>(d_value, r, k.value, [&](int column, float v) { store(to + k.nope + column, v); });
  }
}

/// Bytes of shared memory for rows of keys' and of values' width.
constexpr int shared_bytes(int wide, int width, int narrow, int value) {
  return 2 * (wide * (width + kPad) + narrow * (value + kPad));
}

dim3 head_grid(const AttentionShape& a) {
  return dim3(blocks(a.tokens, kRows), static_cast<unsigned>(a.batch * a.heads));
}

Inputs inputs(const AttentionInputs& in, const AttentionShape& a) {
  const bool whole = a.nope % 8 == 0 && a.rope % 8 == 0 && a.value % 8 == 0;
  const auto is_aligned = [](const Tensor& t) {
    return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.ld % 8 == 0;
  };
  return {rows<const half_t>(in.q), rows<const half_t>(in.kv), rows<const half_t>(in.k_rope),
          whole && is_aligned(in.q) && is_aligned(in.kv) && is_aligned(in.k_rope)};
}

template <int kW, int kV>
void forward_as(cudaStream_t s, const Tensor& o, const Tensor& lse, const AttentionInputs& in,
                const AttentionShape& a) {
  constexpr int kBytes = shared_bytes(2 * kRows, kW, kRows, kV);
  allow_shared(forward<kW, kV>, kBytes);
  forward<kW, kV><<<head_grid(a), kThreads, kBytes, s>>>(rows<half_t>(o), lse.f32(), inputs(in, a),
                                                         in.first_T ? in.first_T.ptr<int32_t>() : nullptr, a);
  check_launch("attention_forward");
}

template <int kW, int kV>
void backward_as(cudaStream_t s, const AttentionInputs& grad, const Tensor& d_o, const AttentionInputs& in,
                 const AttentionKnown& f, const AttentionShape& a) {
  Inputs x = inputs(in, a);
  x.is_vector &= reinterpret_cast<uintptr_t>(d_o.data) % 16 == 0 && d_o.ld % 8 == 0;
  constexpr int kOfQueries = shared_bytes(2 * kRows, kW, 2 * kRows, kV);
  constexpr int kOfKeys = shared_bytes(kRows + kQueries, kW, kRows + kQueries, kV);
  allow_shared(backward_queries<kW, kV>, kOfQueries);
  backward_queries<kW, kV>
      <<<head_grid(a), kThreads, kOfQueries, s>>>(rows<half_t>(grad.q), rows<const half_t>(d_o), x, f, a);
  allow_shared(backward_keys<kW, kV>, kOfKeys);
  backward_keys<kW, kV>
      <<<head_grid(a), kThreads, kOfKeys, s>>>(rows<half_t>(grad.kv), rows<const half_t>(d_o), x, f, a);
  check_launch("attention_backward_input");
}

bool is_small(const AttentionShape& a) { return a.nope + a.rope <= 96 && a.value <= 64; }

}  // namespace

bool is_tensor_attention(const AttentionShape& a, DType dtype) {
  return dtype == DType::bf16 && a.nope + a.rope <= 192 && a.value <= 128;
}

void tensor_attention_forward(cudaStream_t s, const Tensor& o, const Tensor& lse, const AttentionInputs& in,
                              const AttentionShape& a) {
  is_small(a) ? forward_as<96, 64>(s, o, lse, in, a) : forward_as<192, 128>(s, o, lse, in, a);
}

void tensor_attention_backward(cudaStream_t s, const AttentionInputs& grad, const Tensor& d_o,
                               const AttentionInputs& in, const AttentionKnown& known, const AttentionShape& a) {
  is_small(a) ? backward_as<96, 64>(s, grad, d_o, in, known, a) : backward_as<192, 128>(s, grad, d_o, in, known, a);
}

}  // namespace sluice::cuda
