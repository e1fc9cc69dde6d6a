// Attention for training. bf16 heads of DeepSeek-V3's size go to Hopper's own instructions, those of other usual sizes
// to the tensor cores of any GPU; the rest is computed here, in the plainest tiled form: float32 in shared memory. A
// block takes a tile of queries (or, for the gradients of keys and values, of keys) of one head and walks over the
// tiles of the other side.
#include "ops/attention.h"

#include "ops/cuda/attention_heads.cuh"
#include "ops/cuda/attention_tensor.h"
#include "ops/cuda/attention_wgmma.h"
#include "ops/cuda/kernel.cuh"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256;

/// Inputs of one dtype as kernels see them.
template <class T>
struct Inputs {
  Rows<T> q, kv, k_rope;
};
template <class T>
Inputs<T> inputs(const AttentionInputs& in) {
  return {rows<T>(in.q), rows<T>(in.kv), rows<T>(in.k_rope)};
}

/// Where a block works: the sequence's first row, its head, and the sizes of a head.
struct Head {
  int64_t row0;
  int h, tokens, nope, rope, value;
  __device__ int width() const { return nope + rope; }
};
__device__ Head head_of_block(const AttentionShape& a) {
  const int64_t b = blockIdx.y / a.heads;
  return {b * a.tokens,
          static_cast<int>(blockIdx.y % a.heads),
          static_cast<int>(a.tokens),
          static_cast<int>(a.nope),
          static_cast<int>(a.rope),
          static_cast<int>(a.value)};
}

/// Tiles in shared memory have one more column than they need, so that a column's elements lie in different banks.
__host__ __device__ constexpr int pitch(int64_t cols) { return static_cast<int>(cols) + 1; }

/// tile[r][c] = get(r, c) for `rows` rows that exist, 0 in the rest of `all` rows.
template <class Get>
__device__ void fill(float* tile, int all, int existing, int cols, Get get) {
  for (int at = static_cast<int>(threadIdx.x); at < all * cols; at += kThreads) {
    const int r = at / cols, c = at % cols;
    tile[r * pitch(cols) + c] = r < existing ? get(r, c) : 0.0f;
  }
}

template <class T>
__device__ void fill_queries(float* tile, int all, int existing, Rows<T> q, const Head& k, int first) {
  fill(tile, all, existing, k.width(), [&](int r, int c) { return load(q[k.row0 + first + r] + k.h * k.width() + c); });
}
template <class T>
__device__ void fill_keys(float* tile, int all, int existing, const Inputs<T>& in, const Head& k, int first) {
  fill(tile, all, existing, k.width(), [&](int r, int c) {
    const int64_t row = k.row0 + first + r;
    return c < k.nope ? load(in.kv[row] + k.h * (k.nope + k.value) + c) : load(in.k_rope[row] + c - k.nope);
  });
}
template <class T>
__device__ void fill_values(float* tile, int all, int existing, const Inputs<T>& in, const Head& k, int first) {
  fill(tile, all, existing, k.value,
       [&](int r, int c) { return load(in.kv[k.row0 + first + r] + k.h * (k.nope + k.value) + k.nope + c); });
}
template <class T>
__device__ void fill_outputs(float* tile, int all, int existing, Rows<T> o, const Head& k, int first) {
  fill(tile, all, existing, k.value, [&](int r, int c) { return load(o[k.row0 + first + r] + k.h * k.value + c); });
}

/// c[i][j] (i, j < kSize) = sum over d of a[i][d] b[j][d].
template <int kSize>
__device__ void products(float* c, const float* a, const float* b, int depth) {
  constexpr int kSide = kSize / 16;
  const int y = static_cast<int>(threadIdx.x) / 16, x = static_cast<int>(threadIdx.x) % 16;
  float sum[kSide][kSide] = {};
  for (int d = 0; d < depth; ++d) {
    float left[kSide], right[kSide];
#pragma unroll
    for (int n = 0; n < kSide; ++n) {
      left[n] = a[(y + 16 * n) * pitch(depth) + d];
      right[n] = b[(x + 16 * n) * pitch(depth) + d];
    }
#pragma unroll
    for (int m = 0; m < kSide; ++m)
#pragma unroll
      for (int n = 0; n < kSide; ++n) sum[m][n] = fmaf(left[m], right[n], sum[m][n]);
  }
#pragma unroll
  for (int m = 0; m < kSide; ++m)
#pragma unroll
    for (int n = 0; n < kSide; ++n) c[(y + 16 * m) * pitch(kSize) + x + 16 * n] = sum[m][n];
}

/// c[i][j] = c[i][j] factor[i] + sum over d of a(i, d) b[d][j]: a[i][d], or a[d][i] where transposed.
template <int kSize, bool kTransposed>
__device__ void accumulate(float* c, const float* factor, const float* a, const float* b, int cols) {
  constexpr int kSide = kSize / 16, kCols = 4;
  const int y = static_cast<int>(threadIdx.x) / 16, x = static_cast<int>(threadIdx.x) % 16;
  for (int begin = 0; begin < cols; begin += 16 * kCols) {
    float sum[kSide][kCols] = {};
    for (int d = 0; d < kSize; ++d) {
      float left[kSide], right[kCols];
#pragma unroll
      for (int m = 0; m < kSide; ++m)
        left[m] = kTransposed ? a[d * pitch(kSize) + y + 16 * m] : a[(y + 16 * m) * pitch(kSize) + d];
#pragma unroll
      for (int n = 0; n < kCols; ++n) {
        const int j = begin + x + 16 * n;
        right[n] = j < cols ? b[d * pitch(cols) + j] : 0.0f;
      }
#pragma unroll
      for (int m = 0; m < kSide; ++m)
#pragma unroll
        for (int n = 0; n < kCols; ++n) sum[m][n] = fmaf(left[m], right[n], sum[m][n]);
    }
#pragma unroll
    for (int m = 0; m < kSide; ++m)
#pragma unroll
      for (int n = 0; n < kCols; ++n) {
        const int i = y + 16 * m, j = begin + x + 16 * n;
        if (j >= cols) continue;
        float& out = c[i * pitch(cols) + j];
        out = (factor ? out * factor[i] : out) + sum[m][n];
      }
  }
}

__device__ void clear(float* tile, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) tile[i] = 0;
}

constexpr int kForward = 64;  // queries and keys of a tile

/// Shared memory of the forward pass, in floats.
__host__ __device__ int64_t forward_floats(const AttentionShape& a) {
  const int64_t width = a.nope + a.rope;
  return kForward * (2 * pitch(width) + 2 * pitch(a.value) + pitch(kForward) + 3);
}

/// One step of the running softmax of a row, by a warp: the scores of keys [first, last] become exp(score - most),
/// others 0.
__device__ void softmax_row(float* score, float& most, float& total, float& factor, int first, int last, float scale) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float largest = most;
  for (int j = lane; j < kForward; j += 32)
    if (j >= first && j <= last) largest = fmaxf(largest, score[j] * scale);
  largest = warp_max(largest);
  float sum = 0;
  for (int j = lane; j < kForward; j += 32) {
    const float p = j >= first && j <= last ? expf(score[j] * scale - largest) : 0.0f;
    score[j] = p;
    sum += p;
  }
  sum = warp_sum(sum);
  const float keep = most == -INFINITY ? 0.0f : expf(most - largest);
  __syncwarp();
  if (lane > 0) return;
  factor = keep;
  total = total * keep + sum;
  most = largest;
}

template <class T>
__global__ __launch_bounds__(kThreads) void forward(Rows<T> o, float* lse, Inputs<const T> in, const int32_t* first_T,
                                                    AttentionShape a) {
  extern __shared__ float shared[];
  const Head k = head_of_block(a);
  float *query = shared, *key = query + kForward * pitch(k.width()), *value = key + kForward * pitch(k.width());
  float *out = value + kForward * pitch(k.value), *score = out + kForward * pitch(k.value);
  float *most = score + kForward * pitch(kForward), *total = most + kForward, *factor = total + kForward;
  const int begin = static_cast<int>(blockIdx.x) * kForward, n = min(kForward, k.tokens - begin);
  fill_queries(query, kForward, n, in.q, k, begin);
  clear(out, kForward * pitch(k.value));
  if (threadIdx.x < kForward) most[threadIdx.x] = -INFINITY, total[threadIdx.x] = 0;
  for (int j = 0; j < begin + n; j += kForward) {
    const int keys = min(kForward, k.tokens - j);
    __syncthreads();
    fill_keys(key, kForward, keys, in, k, j);
    fill_values(value, kForward, keys, in, k, j);
    __syncthreads();
    products<kForward>(score, query, key, k.width());
    __syncthreads();
    for (int r = static_cast<int>(threadIdx.x) / 32; r < n; r += kThreads / 32) {
      const int first = first_T ? first_T[k.row0 + begin + r] : 0;
      softmax_row(score + r * pitch(kForward), most[r], total[r], factor[r], first - j, begin + r - j, a.scale);
    }
    __syncthreads();
    accumulate<kForward, false>(out, factor, score, value, k.value);
  }
  __syncthreads();
  for (int at = static_cast<int>(threadIdx.x); at < n * k.value; at += kThreads) {
    const int r = at / k.value, c = at % k.value;
    store(o[k.row0 + begin + r] + k.h * k.value + c, out[r * pitch(k.value) + c] / total[r]);
  }
  if (static_cast<int>(threadIdx.x) < n)
    lse[(k.row0 + begin + threadIdx.x) * a.heads + k.h] = most[threadIdx.x] + logf(total[threadIdx.x]);
}

/// delta (T, H) = d_o . o of each head. A warp takes one.
template <class T>
__global__ void output_products(float* delta, Rows<const T> d_o, Rows<const T> o, int64_t n, int64_t heads,
                                int64_t value) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (at >= n * heads) return;
  const int64_t t = at / heads, column = at % heads * value;
  float sum = 0;
  for (int64_t i = threadIdx.x % 32; i < value; i += 32) sum += load(d_o[t] + column + i) * load(o[t] + column + i);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) delta[at] = sum;
}

constexpr int kBackward = 32;  // queries and keys of a tile

__host__ __device__ int64_t backward_floats(const AttentionShape& a) {
  const int64_t width = a.nope + a.rope;
  return kBackward * (3 * pitch(width) + 3 * pitch(a.value) + 2 * pitch(kBackward));
}

/// score := p, d_score := scale p (d_score - delta) for the queries from i and the keys from j on; 0 where hidden.
__device__ void score_gradients(float* score, float* d_score, const AttentionKnown& f, const Head& k,
                                const AttentionShape& a, int i, int j) {
  for (int at = static_cast<int>(threadIdx.x); at < kBackward * kBackward; at += kThreads) {
    const int t = i + at / kBackward, key = j + at % kBackward;
    const int place = at / kBackward * pitch(kBackward) + at % kBackward;
    const bool seen = t < k.tokens && key <= t && key >= (f.first_T ? f.first_T[k.row0 + t] : 0);
    const int64_t row = (k.row0 + t) * a.heads + k.h;
    const float p = seen ? expf(score[place] * a.scale - f.lse[row]) : 0.0f;
    d_score[place] = seen ? a.scale * p * (d_score[place] - f.delta[row]) : 0.0f;
    score[place] = p;
  }
}

template <class T>
__global__ __launch_bounds__(kThreads) void backward_queries(Rows<T> dq, Rows<const T> d_o, Inputs<const T> in,
                                                             AttentionKnown f, AttentionShape a) {
  extern __shared__ float shared[];
  const Head k = head_of_block(a);
  const int wide = kBackward * pitch(k.width()), narrow = kBackward * pitch(k.value);
  float *query = shared, *key = query + wide, *d_query = key + wide, *value = d_query + wide, *d_out = value + narrow;
  float *score = d_out + narrow, *d_score = score + kBackward * pitch(kBackward);
  const int i = static_cast<int>(blockIdx.x) * kBackward, n = min(kBackward, k.tokens - i);
  fill_queries(query, kBackward, n, in.q, k, i);
  fill_outputs(d_out, kBackward, n, d_o, k, i);
  clear(d_query, wide);
  for (int j = 0; j < i + n; j += kBackward) {
    const int keys = min(kBackward, k.tokens - j);
    __syncthreads();
    fill_keys(key, kBackward, keys, in, k, j);
    fill_values(value, kBackward, keys, in, k, j);
    __syncthreads();
    products<kBackward>(score, query, key, k.width());
    products<kBackward>(d_score, d_out, value, k.value);
    __syncthreads();
    score_gradients(score, d_score, f, k, a, i, j);
    __syncthreads();
    accumulate<kBackward, false>(d_query, nullptr, d_score, key, k.width());
  }
  __syncthreads();
  for (int at = static_cast<int>(threadIdx.x); at < n * k.width(); at += kThreads) {
    const int r = at / k.width(), c = at % k.width();
    store(dq[k.row0 + i + r] + k.h * k.width() + c, d_query[r * pitch(k.width()) + c]);
  }
}

/// Gradients of keys and values, and the head's share of the rope key's.
template <class T>
__global__ __launch_bounds__(kThreads) void backward_keys(Rows<T> dkv, Rows<const T> d_o, Inputs<const T> in,
                                                          AttentionKnown f, AttentionShape a) {
  extern __shared__ float shared[];
  const Head k = head_of_block(a);
  const int wide = kBackward * pitch(k.width()), narrow = kBackward * pitch(k.value);
  float *query = shared, *key = query + wide, *d_key = key + wide;
  float *value = d_key + wide, *d_value = value + narrow, *d_out = d_value + narrow;
  float *score = d_out + narrow, *d_score = score + kBackward * pitch(kBackward);
  const int j = static_cast<int>(blockIdx.x) * kBackward, keys = min(kBackward, k.tokens - j);
  fill_keys(key, kBackward, keys, in, k, j);
  fill_values(value, kBackward, keys, in, k, j);
  clear(d_key, wide);
  clear(d_value, narrow);
  for (int i = j; i < k.tokens; i += kBackward) {
    const int n = min(kBackward, k.tokens - i);
    __syncthreads();
    fill_queries(query, kBackward, n, in.q, k, i);
    fill_outputs(d_out, kBackward, n, d_o, k, i);
    __syncthreads();
    products<kBackward>(score, query, key, k.width());
    products<kBackward>(d_score, d_out, value, k.value);
    __syncthreads();
    score_gradients(score, d_score, f, k, a, i, j);
    __syncthreads();
    accumulate<kBackward, true>(d_value, nullptr, score, d_out, k.value);
    accumulate<kBackward, true>(d_key, nullptr, d_score, query, k.width());
  }
  __syncthreads();
  const int columns = k.width() + k.value;
  const int64_t all = a.batch * a.tokens;
  for (int at = static_cast<int>(threadIdx.x); at < keys * columns; at += kThreads) {
    const int r = at / columns, c = at % columns;
    const int64_t row = k.row0 + j + r;
    T* out = dkv[row] + k.h * (k.nope + k.value);
    if (c < k.nope)
      store(out + c, d_key[r * pitch(k.width()) + c]);
    else if (c < k.width())
      f.d_rope_HTR[(k.h * all + row) * k.rope + c - k.nope] = d_key[r * pitch(k.width()) + c];
    else
      store(out + c - k.rope, d_value[r * pitch(k.value) + c - k.width()]);
  }
}

/// Shared memory beyond what a kernel gets without asking. Throws Error where heads are too large.
template <class Kernel>
int allow_shared(Kernel kernel, int64_t floats) {
  constexpr int64_t kMost = 227 << 10;
  const int64_t bytes = floats * static_cast<int64_t>(sizeof(float));
  if (bytes > kMost)
    fail("attention on a GPU: heads of this size need {} KiB of shared memory, it has 227", bytes >> 10);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "attention's shared memory");
  return static_cast<int>(bytes);
}

dim3 head_grid(const AttentionShape& a, int64_t tile) {
  return dim3(blocks(a.tokens, tile), static_cast<unsigned>(a.batch * a.heads));
}

template <class T>
void forward_as(cudaStream_t s, const Tensor& o, const Tensor& lse, const AttentionInputs& in,
                const AttentionShape& a) {
  const int bytes = allow_shared(forward<T>, forward_floats(a));
  forward<T><<<head_grid(a, kForward), kThreads, bytes, s>>>(rows<T>(o), lse.f32(), inputs<const T>(in),
                                                             in.first_T ? in.first_T.ptr<int32_t>() : nullptr, a);
  check_launch("attention_forward");
}

template <class T>
void plain_backward(cudaStream_t s, const AttentionInputs& grad, const Tensor& d_o, const AttentionInputs& in,
                    const AttentionKnown& known, const AttentionShape& a) {
  int bytes = allow_shared(backward_queries<T>, backward_floats(a));
  backward_queries<T><<<head_grid(a, kBackward), kThreads, bytes, s>>>(rows<T>(grad.q), rows<const T>(d_o),
                                                                       inputs<const T>(in), known, a);
  bytes = allow_shared(backward_keys<T>, backward_floats(a));
  backward_keys<T><<<head_grid(a, kBackward), kThreads, bytes, s>>>(rows<T>(grad.kv), rows<const T>(d_o),
                                                                    inputs<const T>(in), known, a);
}

template <class T>
void backward_as(Stream& s, const AttentionInputs& grad, const Tensor& d_o, const AttentionInputs& in, const Tensor& o,
                 const Tensor& lse, const AttentionShape& a) {
  const int64_t n = a.batch * a.tokens;
  const size_t deltas = static_cast<size_t>(n * a.heads), shares = deltas * static_cast<size_t>(a.rope);
  Scratch scratch(s.queue(), Scratch::total(deltas * sizeof(float), shares * sizeof(float)));
  float *delta = scratch.take<float>(deltas), *d_rope_HTR = scratch.take<float>(shares);
  const AttentionKnown known{lse.f32(), delta, in.first_T ? in.first_T.ptr<int32_t>() : nullptr, d_rope_HTR};
  const cudaStream_t stream = s.queue().stream();
  output_products<T><<<blocks(n * a.heads, kThreads / 32), kThreads, 0, stream>>>(
      delta, rows<const T>(d_o), rows<const T>(o), n, a.heads, a.value);
  is_tensor_attention(a, o.dtype) ? tensor_attention_backward(stream, grad, d_o, in, known, a)
                                  : plain_backward<T>(stream, grad, d_o, in, known, a);
  sum_heads<T>(stream, grad.k_rope, d_rope_HTR, a.heads);
  check_launch("attention_backward_input");
}

}  // namespace

void attention_forward(Stream& s, Tensor o, Tensor lse, const AttentionInputs& in, const AttentionShape& shape) {
  if (o.size() == 0) return;
  if (is_wgmma_attention(in, o, shape)) return wgmma_attention_forward(s.queue(), o, lse, in, shape);
  const cudaStream_t stream = s.queue().stream();
  if (is_tensor_attention(shape, o.dtype)) return tensor_attention_forward(stream, o, lse, in, shape);
  o.dtype == DType::f32 ? forward_as<float>(stream, o, lse, in, shape) : forward_as<half_t>(stream, o, lse, in, shape);
}

void attention_backward_input(Stream& s, const AttentionInputs& grad, const Tensor& d_o, const AttentionInputs& in,
                              const Tensor& o, const Tensor& lse, const AttentionShape& shape) {
  if (o.size() == 0) return;
  if (is_wgmma_attention(in, o, shape) && is_wgmma_attention(grad, d_o, shape))
    return wgmma_attention_backward(s.queue(), grad, d_o, in, o, lse, shape);
  o.dtype == DType::f32 ? backward_as<float>(s, grad, d_o, in, o, lse, shape)
                        : backward_as<half_t>(s, grad, d_o, in, o, lse, shape);
}

}  // namespace sluice::cuda
