// Several ops of inference in one launch (ops/fused.h): what they would pass on in memory stays in registers. A block
// takes one row, unless it says otherwise.
#include "ops/fused.h"

#include "ops/cuda/kernel.cuh"
#include "ops/cuda/latent.cuh"
#include "ops/gpu_packed.h"

namespace sluice::cuda {
namespace {

constexpr int kHeadThreads = 128;

/// Rows of PreparedRows.
struct Halves {
  char* data;
  int64_t pitch;  // bytes
  __device__ half_t* operator[](int64_t row) const { return reinterpret_cast<half_t*>(data + row * pitch); }
};

Halves halves_of(const PreparedRows& rows) {
  return {reinterpret_cast<char*>(rows.data), static_cast<int64_t>(prepared_row_bytes(rows.cols, rows.kind))};
}

/// The factor of rmsnorm; all threads of the block call, each elements threadIdx.x kVector and so on.
__device__ float norm_factor(const float* x, float eps, int64_t D) {
  float squares = 0;
  for (int64_t i = threadIdx.x * kVector; i < D; i += blockDim.x * kVector) {
    float v[kVector];
    load_n<kVector>(x + i, v);
#pragma unroll
    for (int j = 0; j < kVector; ++j) squares += v[j] * v[j];
  }
  return 1.0f / sqrtf(block_sum(squares) / static_cast<float>(D) + eps);
}

/// out = x factor w as bf16, zeros from D up to `width`; the same as float32 to `floats` unless it is null.
__device__ void store_norm(half_t* out, float* floats, const float* x, const float* w, float factor, int64_t D,
                           int64_t width) {
  for (int64_t i = threadIdx.x * kVector; i < width; i += blockDim.x * kVector) {
    float v[kVector] = {}, weight[kVector];
    if (i < D) {
      load_n<kVector>(x + i, v);
      load_n<kVector>(w + i, weight);
#pragma unroll
      for (int j = 0; j < kVector; ++j) v[j] = v[j] * factor * weight[j];
      if (floats) store_n<kVector>(floats + i, v);
    }
    store_n<kVector>(out + i, v);
  }
}

__global__ void norms(Halves out, char* floats, int64_t floats_pitch, Rows<const float> x, const float* w, float eps,
                      int64_t D) {
  wait_for_previous();
  const int64_t t = blockIdx.x;
  const float factor = norm_factor(x[t], eps, D);
  store_norm(out[t], floats ? reinterpret_cast<float*>(floats + t * floats_pitch) : nullptr, x[t], w, factor, D,
             out.pitch / 2);
}

__global__ void swiglu(Halves out, const float* g, const float* u, int64_t n, int64_t D) {
  wait_for_previous();
  const int64_t t = launch_row();
  if (t >= n) return;
  for (int64_t i = threadIdx.x * kVector; i < out.pitch / 2; i += blockDim.x * kVector) {
    float z[kVector] = {}, up[kVector];
    if (i < D) {
      load_n<kVector>(g + t * D + i, z);
      load_n<kVector>(u + t * D + i, up);
#pragma unroll
      for (int j = 0; j < kVector; ++j) z[j] = z[j] * (1.0f / (1.0f + expf(-z[j]))) * up[j];
    }
    store_n<kVector>(out[t] + i, z);
  }
}

/// Cosines and sines of a position.
struct Rotation {
  const float* row;
  int64_t pairs;
  __device__ float2 operator()(int64_t i, float a, float b) const {
    const float cosine = row[i], sine = row[pairs + i];
    return make_float2(a * cosine - b * sine, a * sine + b * cosine);
  }
};

struct Latents {
  Rows<const float> raw, query, table;
  const float *kv_norm, *q_norm;
  float eps;
  int64_t latent, rope, queries;
};

// Blocks (t, 0) take keys, blocks (t, 1) queries.
__global__ void latents(Rows<half_t> cache, Halves out, Latents in, Places places) {
  wait_for_previous();
  const int64_t t = blockIdx.x;
  if (blockIdx.y == 1) {
    const float factor = norm_factor(in.query[t], in.eps, in.queries);
    store_norm(out[t], nullptr, in.query[t], in.q_norm, factor, in.queries, out.pitch / 2);
    return;
  }
  const int32_t position = places.position_T[t];
  half_t* key = cache[places.row(t, position)];
  const float* raw = in.raw[t];
  const float factor = norm_factor(raw, in.eps, in.latent);
  store_norm(key, nullptr, raw, in.kv_norm, factor, in.latent, in.latent);
  const Rotation rotate{in.table[position], in.rope / 2};
  for (int64_t i = threadIdx.x; i < in.rope / 2; i += blockDim.x) {
    const float2 pair = rotate(i, raw[in.latent + 2 * i], raw[in.latent + 2 * i + 1]);
    store(key + in.latent + 2 * i, pair.x);
    store(key + in.latent + 2 * i + 1, pair.y);
  }
}

// Blocks (t, h) take a head.
__global__ void queries(float* qa, Halves nope, Rows<float> q, const int32_t* position_T, Rows<const float> table,
                        LatentShape a, int64_t text_rows) {
  wait_for_previous();
  const int64_t t = blockIdx.x, h = blockIdx.y, head = a.nope + a.rope, pairs = a.rope / 2;
  const bool is_text = t < text_rows;
  const Rotation rotate{table[position_T[t]], pairs};
  for (int64_t i = threadIdx.x; i < pairs; i += kHeadThreads) {
    float* from = q[t] + h * head + a.nope + 2 * i;
    float* to = is_text ? qa + (t * a.heads + h) * a.row() + a.latent + 2 * i : from;
    const float2 pair = rotate(i, from[0], from[1]);
    to[0] = pair.x, to[1] = pair.y;
  }
  if (!is_text) return;
  const int64_t width = nope.pitch / 2;
  for (int64_t i = threadIdx.x; i < width; i += kHeadThreads)
    store(nope[t * a.heads + h] + i, i < a.nope ? q[t][h * head + i] : 0.0f);
}

__global__ void combine(Rows<float> h, Rows<const float> y, const float* weight_TK, const int32_t* row_of_TK, int64_t n,
                        int64_t D, int64_t K, bool has_shared) {
  wait_for_previous();
  const int64_t t = launch_row();
  if (t >= n) return;
  for (int64_t i = threadIdx.x * kVector; i < D; i += blockDim.x * kVector) {
    float total[kVector], v[kVector];
    load_n<kVector>(h[t] + i, total);
#pragma unroll 4
    for (int64_t k = 0; k < K; ++k) {
      load_n<kVector>(y[row_of_TK[t * K + k]] + i, v);
      const float w = weight_TK[t * K + k];
#pragma unroll
      for (int j = 0; j < kVector; ++j) total[j] += w * v[j];
    }
    if (has_shared) {
      load_n<kVector>(y[n * K + t] + i, v);
#pragma unroll
      for (int j = 0; j < kVector; ++j) total[j] += v[j];
    }
    store_n<kVector>(h[t] + i, total);
  }
}

void check_vectors(bool are, const char* op) {
  if (!are) fail("{}: expected widths and addresses for vectors", op);
}

}  // namespace

void norm_rows(Stream& s, const PreparedRows& out, const PreparedRows& floats, const Tensor& x, const Tensor& w,
               float eps) {
  if (x.rows() == 0) return;
  const int64_t D = x.cols();
  check_vectors(are_vectors(x, w), "norm_rows");
  const int64_t pitch = floats.cols > 0 ? static_cast<int64_t>(prepared_row_bytes(D, floats.kind)) : 0;
  launch_early(s.queue().stream(), norms, static_cast<unsigned>(x.rows()), row_threads(D / kVector), 0, halves_of(out),
               reinterpret_cast<char*>(floats.data), pitch, rows<const float>(x), w.f32(), eps, D);
  check_launch("norm_rows");
}

void swiglu_rows(Stream& s, const PreparedRows& out, const Tensor& g, const Tensor& u) {
  if (g.rows() == 0) return;
  const int64_t D = g.cols();
  check_vectors(are_vectors(g, u), "swiglu_rows");
  const RowLaunch l(g.rows(), D / kVector);
  launch_early(s.queue().stream(), swiglu, l.grid, l.block, 0, halves_of(out), g.f32(), u.f32(), g.rows(), D);
  check_launch("swiglu_rows");
}

void latent_rows(Stream& s, Tensor cache, const PreparedRows& q, const LatentInputs& in, const CachePlaces& places) {
  const int64_t T = in.raw_TA.rows(), C = in.kv_norm.cols(), Q = in.c_TQ.cols();
  if (T == 0) return;
  check_vectors(are_vectors(in.c_TQ, in.q_norm, in.kv_norm, in.raw_TA.slice_cols(0, C)) && cache.ld % kVector == 0,
                "latent_rows");
  const Latents latent{rows<const float>(in.raw_TA),
                       rows<const float>(in.c_TQ),
                       rows<const float>(in.rope_table),
                       in.kv_norm.f32(),
                       in.q_norm.f32(),
                       in.eps,
                       C,
                       in.raw_TA.cols() - C,
                       Q};
  const Places at{places.position_T.ptr<int32_t>(), places.sequence_T.ptr<int32_t>(),
                  rows<const int32_t>(places.pages_SP)};
  launch_early(s.queue().stream(), latents, dim3(static_cast<unsigned>(T), 2), row_threads(std::max(C, Q) / kVector), 0,
               rows<half_t>(cache), halves_of(q), latent, at);
  check_launch("latent_rows");
}

void query_rows(Stream& s, Tensor qa, const PreparedRows& nope, Tensor q, const Tensor& position_T,
                const Tensor& rope_table, const LatentShape& a) {
  if (q.rows() == 0) return;
  launch_early(s.queue().stream(), queries, dim3(static_cast<unsigned>(q.rows()), static_cast<unsigned>(a.heads)),
               kHeadThreads, 0, qa ? qa.f32() : nullptr, halves_of(nope), rows<float>(q), position_T.ptr<int32_t>(),
               rows<const float>(rope_table), a, qa ? qa.rows() : 0);
  check_launch("query_rows");
}

void combine_rows(Stream& s, Tensor h, const Tensor& y, const Tensor& weight_TK, const Tensor& row_of_TK) {
  const int64_t T = h.rows(), D = h.cols(), K = row_of_TK.cols();
  if (T == 0) return;
  check_vectors(are_vectors(h, y), "combine_rows");
  const RowLaunch l(T, D / kVector);
  launch_early(s.queue().stream(), combine, l.grid, l.block, 0, rows<float>(h), rows<const float>(y), weight_TK.f32(),
               row_of_TK.ptr<int32_t>(), T, D, K, y.rows() > T * K);
  check_launch("combine_rows");
}

}  // namespace sluice::cuda
