// Attention of a prompt with keys and values expanded per head, in bf16 on tensor cores: the cached rows are brought
// into one piece, expanded for as many heads as memory allows, and attended to in tiles of 64 positions from 0 on, so
// that a row's sums do not depend on the rows beside it.
#include "ops/cuda/attention_tile.cuh"
#include "ops/cuda/latent.cuh"
#include "ops/cuda/product.h"

namespace sluice::cuda {
namespace {

constexpr int kThreads = kAttentionThreads, kRows = 64, kPad = kAttentionPad;

// A block takes a position.
__global__ void gather_rows(half_t* out, Rows<const half_t> cache, const int32_t* pages_P, int64_t width) {
  const int64_t p = blockIdx.x;
  const half_t* from = cache[static_cast<int64_t>(pages_P[p / kPageTokens]) * kPageTokens + p % kPageTokens];
  for (int64_t i = threadIdx.x; i < width; i += kThreads) out[p * width + i] = from[i];
}

/// Expanded heads and the rope keys of all positions.
struct Keys {
  Rows<const half_t> kv, k_rope;
  bool is_vector;
};

/// Queries of n rows, the first at position `begin`, for `heads` heads from `h0` on.
struct Queries {
  Rows<float> o;
  Rows<const float> q;
  int begin, n, h0;
};

template <int kW>
__device__ void fill_queries(uint16_t* tile, const Queries& x, int first, int h, int width) {
  for (int at = static_cast<int>(threadIdx.x); at < kRows * kW; at += kThreads) {
    const int r = at / kW, c = at % kW;
    const bool is_there = first + r < x.n && c < width;
    store(reinterpret_cast<half_t*>(tile) + r * (kW + kPad) + c, is_there ? x.q[first + r][h * width + c] : 0.0f);
  }
}

template <int kW, int kV>
__global__ __launch_bounds__(kThreads) void attend(Queries x, Keys in, LatentShape a) {
  extern __shared__ __align__(16) uint16_t shared[];
  uint16_t *query = shared, *key = query + kRows * (kW + kPad), *value = key + kRows * (kW + kPad);
  const int nope = static_cast<int>(a.nope), rope = static_cast<int>(a.rope), num_values = static_cast<int>(a.value);
  const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;  // the longest first
  const int column = static_cast<int>(blockIdx.y) * (nope + num_values), h = x.h0 + static_cast<int>(blockIdx.y);
  const int row = static_cast<int>(threadIdx.x) / 32 * 16, end = x.begin + min(first + kRows, x.n);
  float out[kV / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {};
  fill_queries<kW>(query, x, first, h, nope + rope);
  for (int j = 0; j < end; j += kRows) {
    __syncthreads();
    fill<kRows, kW>(key, j, end, in.is_vector, [&](int p) {
      return HeadRow{in.kv[p] + column, in.k_rope[p], nope, rope};
    });
    fill<kRows, kV>(value, j, end, in.is_vector, [&](int p) {
      return HeadRow{in.kv[p] + column + nope, nullptr, num_values, 0};
    });
    __syncthreads();
    float score[kRows / 8][4];
    products<kRows, kW>(score, query, row, key);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int last = x.begin + first + row + mma_row(2 * r);  // position of the query
      float largest = most[r];
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
        for (int c = 2 * r; c < 2 * r + 2; ++c)
          if (j + 8 * n + mma_col(c) <= last) largest = fmaxf(largest, score[n][c] * a.scale);
      largest = row_max(largest);
      const float keep = most[r] == -INFINITY ? 0.0f : expf(most[r] - largest);
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
        for (int c = 2 * r; c < 2 * r + 2; ++c) {
          score[n][c] = j + 8 * n + mma_col(c) <= last ? expf(score[n][c] * a.scale - largest) : 0.0f;
          sum += score[n][c];
        }
      total[r] = total[r] * keep + row_sum(sum);
      most[r] = largest;
#pragma unroll
      for (int n = 0; n < kV / 8; ++n) out[n][2 * r] *= keep, out[n][2 * r + 1] *= keep;
    }
    accumulate<kRows, kV>(out, score, value);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int t = first + row + mma_row(2 * r);
    if (t >= x.n) continue;
    float* to = x.o[t] + h * num_values;
#pragma unroll
    for (int n = 0; n < kV / 8; ++n)
#pragma unroll
      for (int c = 2 * r; c < 2 * r + 2; ++c)
        if (8 * n + mma_col(c) < num_values) to[8 * n + mma_col(c)] = out[n][c] / total[r];
  }
}

template <int kW, int kV>
void launch(cudaStream_t s, const Queries& x, const Keys& in, int64_t heads, const LatentShape& a) {
  constexpr int kBytes = 2 * (2 * kRows * (kW + kPad) + kRows * (kV + kPad));
  allow_shared(attend<kW, kV>, kBytes);
  attend<kW, kV><<<dim3(blocks(x.n, kRows), static_cast<unsigned>(heads)), kThreads, kBytes, s>>>(x, in, a);
  check_launch("infer_prompt_attention");
}

}  // namespace

void gather_cached(cudaStream_t s, half_t* cached, const Tensor& cache, const Tensor& pages_P, int64_t positions,
                   const LatentShape& a) {
  gather_rows<<<static_cast<unsigned>(positions), kThreads, 0, s>>>(cached, rows<const half_t>(cache),
                                                                    pages_P.ptr<int32_t>(), a.row());
}

void expand_heads(cudaStream_t s, half_t* kv, const half_t* cached, int64_t positions, const Matrix& kv_b, int64_t h0,
                  int64_t heads, const LatentShape& a) {
  const int64_t head = a.nope + a.value;
  Product p;
  const auto operand = [&](const half_t* data, int64_t ld) {
    Operand o;
    o.data = data;
    o.ld = ld;
    o.is_vector = reinterpret_cast<uintptr_t>(data) % 16 == 0 && ld % kVector == 0;
    return o;
  };
  p.a = operand(cached, a.row());
  p.b = operand(static_cast<const half_t*>(kv_b.data) + h0 * head * a.latent, a.latent);
  p.y = kv;
  p.ldy = heads * head;
  p.y_is_f32 = false;
  p.M = positions;
  p.N = heads * head;
  p.K = a.latent;
  bf16_product(s, p);
}

bool is_tensor_prompt(const LatentShape& a) { return a.nope + a.rope <= 192 && a.value <= 128; }

void tensor_prompt_attention(Queue& queue, const Tensor& o, const Tensor& q, const Tensor& cache, const Tensor& pages_P,
                             int64_t begin, const Matrix& kv_b, const LatentShape& a) {
  const int64_t positions = begin + q.rows(), head = a.nope + a.value;
  // Heads of an odd width alone: together their width, and so the kernel that multiplies, would depend on `positions`.
  const int64_t room = kExpandedBytes / (positions * head * 2);
  const int64_t most = head % kVector == 0 ? std::clamp<int64_t>(room, 1, a.heads) : 1;
  const size_t rows_size = static_cast<size_t>(positions * a.row()),
               kv_size = static_cast<size_t>(positions * most * head);
  Scratch scratch(queue, Scratch::total(rows_size * sizeof(half_t), kv_size * sizeof(half_t)));
  half_t *cached = scratch.take<half_t>(rows_size), *kv = scratch.take<half_t>(kv_size);
  const cudaStream_t s = queue.stream();
  gather_cached(s, cached, cache, pages_P, positions, a);
  const bool is_vector = a.nope % 8 == 0 && a.rope % 8 == 0 && a.value % 8 == 0 && a.latent % 8 == 0;
  for (int64_t h = 0; h < a.heads; h += most) {
    const int64_t heads = std::min(most, a.heads - h), N = heads * head;
    expand_heads(s, kv, cached, positions, kv_b, h, heads, a);
    const Queries x{rows<float>(o), rows<const float>(q), static_cast<int>(begin), static_cast<int>(q.rows()),
                    static_cast<int>(h)};
    const Keys in{{kv, N}, {cached + a.latent, a.row()}, is_vector};
    a.nope + a.rope <= 96 && a.value <= 64 ? launch<96, 64>(s, x, in, heads, a) : launch<192, 128>(s, x, in, heads, a);
  }
}

}  // namespace sluice::cuda
