#include "ops/optim.h"

#include <cmath>
#include <vector>

#include "ops/cuda/kernel.cuh"

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
  const float* g;
  void* working;  // null: none
  int64_t n, first_block;
  bool working_is_f32, decays;
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

template <class T>
__global__ void adamw(const Entry* entries, int64_t count, Factors c) {
  const Entry& t = entry_of_block(entries, count);
  const int64_t begin = (blockIdx.x - t.first_block) * kPerBlock, end = min(begin + kPerBlock, t.n);
  T *m = static_cast<T*>(t.m), *v = static_cast<T*>(t.v);
  const float keep = t.decays ? c.keep : 1.0f;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const float gradient = t.g[i] * c.grad_scale;
    const float m1 = c.rest1 * gradient + c.beta1 * load(m + i);
    const float v1 = c.rest2 * (gradient * gradient) + c.beta2 * load(v + i);
    const float w1 = keep * t.w[i] - c.lr * (m1 / (sqrtf(v1) * c.root2 + c.eps));
    store(m + i, m1);
    store(v + i, v1);
    t.w[i] = w1;
    if (!t.working) continue;
    if (t.working_is_f32)
      static_cast<float*>(t.working)[i] = w1;
    else
      store(static_cast<half_t*>(t.working) + i, w1);
  }
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
    entries.push_back({t.w.f32(), t.m.data, t.v.data, t.g.f32(), t.working ? t.working.data : nullptr, n, total,
                       t.working.dtype == DType::f32, t.decays});
    total += blocks(n, kPerBlock);
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
