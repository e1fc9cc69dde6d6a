#include "ops/optim.h"

#include <cmath>
#include <vector>

#include "ops/cuda/fp8.cuh"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256;

/// AdamW's constants as the kernel multiplies by them.
struct Factors {
  float beta1, beta2, rest1, rest2, grad_scale, lr, root2, eps, keep;
};

Factors factors(const AdamW& c) {
  const double step = static_cast<double>(c.step);
  const double correction1 = 1.0 - std::pow(static_cast<double>(c.beta1), step);
  const double correction2 = 1.0 - std::pow(static_cast<double>(c.beta2), step);
  return {c.beta1,
          c.beta2,
          1.0f - c.beta1,
          1.0f - c.beta2,
          c.grad_scale,
          static_cast<float>(static_cast<double>(c.lr) / correction1),
          static_cast<float>(1.0 / std::sqrt(correction2)),
          c.eps,
          1.0f - c.lr * c.weight_decay};
}

constexpr int kPerBlock = 16 * kThreads;  // elements of one tensor that a block takes

/// A tensor as the kernel sees it.
struct Entry {
  float* w;
  void *m, *v;
  float* g;
  void* working;  // null: none
  float* scales;  // of working weights in FP8
  int64_t n, cols, first_block;
  Format format;  // of the working weights
  bool decays, keeps_g, is_vector;
};

/// The entry that this block works for: the last one whose first block is not beyond it. All threads call.
template <class E>
__device__ const E& entry_of_block(const E* entries, int64_t count) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (entries[middle].first_block <= blockIdx.x ? low : high) = middle;
  }
  return entries[low];
}

/// N neighbouring elements from element `i` on: all but the working weights. w: the new weights.
template <int N, class T>
__device__ void update(float (&w)[N], const Entry& t, int64_t i, const Factors& c) {
  float g[N], m[N], v[N];
  const float keep = t.decays ? c.keep : 1.0f;
  load_n<N>(t.g + i, g);
  load_n<N>(static_cast<const T*>(t.m) + i, m);
  load_n<N>(static_cast<const T*>(t.v) + i, v);
  load_n<N>(static_cast<const float*>(t.w) + i, w);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    // Which of these are fused is written down, so that it does not depend on what the compiler does around them.
    const float gradient = __fmul_rn(g[j], c.grad_scale);
    m[j] = fmaf(c.beta1, m[j], __fmul_rn(c.rest1, gradient));
    v[j] = fmaf(c.beta2, v[j], __fmul_rn(c.rest2, __fmul_rn(gradient, gradient)));
    w[j] = fmaf(-c.lr, m[j] / fmaf(sqrtf(v[j]), c.root2, c.eps), __fmul_rn(keep, w[j]));
    g[j] = 0;
  }
  store_n<N>(static_cast<T*>(t.m) + i, m);
  store_n<N>(static_cast<T*>(t.v) + i, v);
  store_n<N>(t.w + i, w);
  if (!t.keeps_g) store_n<N>(t.g + i, g);
}

/// kPerBlock elements in a row.
template <int N, class T>
__device__ void update_range(const Entry& t, int64_t block, const Factors& c) {
  const int64_t begin = block * kPerBlock, end = min(begin + kPerBlock, t.n);
  const auto some = [&]<int M>(int64_t i) {
    float w[M];
    update<M, T>(w, t, i, c);
    if (!t.working) return;
    if (t.format == Format::f32)
      store_n<M>(static_cast<float*>(t.working) + i, w);
    else
      store_n<M>(static_cast<half_t*>(t.working) + i, w);
  };
  const int64_t whole = begin + (end - begin) / N * N;
  for (int64_t i = begin + threadIdx.x * N; i < whole; i += kThreads * N) some.template operator()<N>(i);
  for (int64_t i = whole + threadIdx.x; i < end; i += kThreads) some.template operator()<1>(i);
}

/// 128 x 128 elements that have a scale in common as FP8 working weights; a thread takes N neighbours of every
/// (kThreads / (128 / N))th row.
template <int N, class T>
__device__ void update_block(const Entry& t, int64_t block, const Factors& c) {
  constexpr int kPerRow = kGroup / N, kRows = kThreads / kPerRow, kTurns = kGroup / kRows;
  const int64_t scale_cols = (t.cols + kGroup - 1) / kGroup, num_rows = t.n / t.cols;
  const int64_t col = block % scale_cols * kGroup + threadIdx.x % kPerRow * N;
  const int64_t row = block / scale_cols * kGroup + threadIdx.x / kPerRow;
  const auto exists = [&](int turn) { return col < t.cols && row + turn * kRows < num_rows; };
  float w[kTurns][N], amax = 0;
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn) {
    if (!exists(turn)) continue;
    update<N, T>(w[turn], t, (row + turn * kRows) * t.cols + col, c);
#pragma unroll
    for (int j = 0; j < N; ++j) amax = larger_magnitude(amax, w[turn][j]);
  }
  const float scale = group_scale(block_max(amax), false);
  if (threadIdx.x == 0) t.scales[block] = scale;
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn) {
    if (!exists(turn)) continue;
    uint8_t* code = static_cast<uint8_t*>(t.working) + (row + turn * kRows) * t.cols + col;
    divide(w[turn], scale, false);
    if constexpr (N == 1)
      *code = encode(w[turn][0]);
    else
      *reinterpret_cast<uint2*>(code) = encode_8(w[turn]);
  }
}

template <class T>
__global__ __launch_bounds__(kThreads, 2) void adamw(const Entry* entries, int64_t count, Factors c) {
  const Entry& t = entry_of_block(entries, count);
  const int64_t block = blockIdx.x - t.first_block;
  if (t.format == Format::fp8_128)
    t.is_vector ? update_block<kVector, T>(t, block, c) : update_block<1, T>(t, block, c);
  else
    t.is_vector ? update_range<kVector, T>(t, block, c) : update_range<1, T>(t, block, c);
}

constexpr int64_t kPiece = 16384;

struct Numbers {
  const float* x;
  int64_t n, first_block;
};

__global__ void squares(double* part, const Numbers* entries, int64_t count) {
  const Numbers& t = entry_of_block(entries, count);
  const int64_t begin = (blockIdx.x - t.first_block) * kPiece, end = min(begin + kPiece, t.n);
  double total = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads)
    total += static_cast<double>(t.x[i]) * static_cast<double>(t.x[i]);
  total = block_sum(total);
  if (threadIdx.x == 0) part[blockIdx.x] = total;
}

__global__ void add_pieces(double* sum, const double* part, int64_t pieces) {
  double total = 0;
  for (int64_t i = threadIdx.x; i < pieces; i += kThreads) total += part[i];
  total = block_sum(total);
  if (threadIdx.x == 0) *sum += total;
}

Entry entry_of(const AdamWTensor& t, int64_t first_block) {
  const auto is_aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  const bool is_fp8 = t.working && t.working.format == Format::fp8_128;
  const bool is_vector = is_aligned(t.w.data) && is_aligned(t.m.data) && is_aligned(t.v.data) && is_aligned(t.g.data) &&
                         is_aligned(t.working.data) && (!is_fp8 || t.working.cols % kVector == 0);
  return {t.w.f32(),  t.m.data,    t.v.data,         t.g.f32(), t.working.data, t.working.scales, t.w.size(),
          t.w.cols(), first_block, t.working.format, t.decays,  t.keeps_g,      is_vector};
}

/// Queues a copy of `entries` to the GPU.
template <class E>
void upload_entries(cudaStream_t s, E* to, const std::vector<E>& entries) {
  check_cuda(cudaMemcpyAsync(to, entries.data(), entries.size() * sizeof(E), cudaMemcpyHostToDevice, s),
             "a list of tensors");
}

__global__ void ema(float* average, const float* w, float decay, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) average[i] = decay * average[i] + (1.0f - decay) * w[i];
}

}  // namespace

void adamw_step(Stream& s, std::span<const AdamWTensor> tensors, const AdamW& config) {
  std::vector<Entry> entries;
  int64_t total = 0;
  for (const AdamWTensor& t : tensors) {
    const int64_t n = t.w.size();
    if (n == 0) continue;
    entries.push_back(entry_of(t, total));
    total += entries.back().format == Format::fp8_128 ? t.working.scale_rows() * t.working.scale_cols()
                                                      : static_cast<int64_t>(blocks(n, kPerBlock));
  }
  if (entries.empty()) return;
  const cudaStream_t stream = s.queue().stream();
  Entry* list = static_cast<Entry*>(s.queue().scratch(entries.size() * sizeof(Entry)));
  upload_entries(stream, list, entries);
  const unsigned grid = static_cast<unsigned>(total);
  const int64_t count = static_cast<int64_t>(entries.size());
  if (tensors[0].m.dtype == DType::f32)
    adamw<float><<<grid, kThreads, 0, stream>>>(list, count, factors(config));
  else
    adamw<half_t><<<grid, kThreads, 0, stream>>>(list, count, factors(config));
  check_launch("adamw_step");
}

void sum_squares(Stream& s, Tensor sum_1, std::span<const Tensor> x) {
  std::vector<Numbers> entries;
  int64_t total = 0;
  for (const Tensor& t : x) {
    if (t.size() == 0) continue;
    entries.push_back({t.f32(), t.size(), total});
    total += blocks(t.size(), kPiece);
  }
  if (entries.empty()) return;
  const size_t pieces = static_cast<size_t>(total);
  Scratch scratch(s.queue(), Scratch::total(pieces * sizeof(double), entries.size() * sizeof(Numbers)));
  double* part = scratch.take<double>(pieces);
  Numbers* list = scratch.take<Numbers>(entries.size());
  const cudaStream_t stream = s.queue().stream();
  upload_entries(stream, list, entries);
  squares<<<static_cast<unsigned>(total), kThreads, 0, stream>>>(part, list, static_cast<int64_t>(entries.size()));
  add_pieces<<<1, kThreads, 0, stream>>>(sum_1.ptr<double>(), part, total);
  check_launch("sum_squares");
}

void ema_update(Stream& s, Tensor average, const Tensor& w, float decay) {
  const int64_t n = w.size();
  if (n == 0) return;
  ema<<<blocks(n, kThreads), kThreads, 0, s.queue().stream()>>>(average.f32(), w.f32(), decay, n);
  check_launch("ema_update");
}

}  // namespace sluice::cuda
