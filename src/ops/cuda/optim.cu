#include "ops/optim.h"

#include <cmath>

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

template <class T>
__global__ void adamw(float* w, T* m, T* v, const float* g, Factors c, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const float gradient = g[i] * c.grad_scale;
  const float m1 = c.rest1 * gradient + c.beta1 * load(m + i);
  const float v1 = c.rest2 * (gradient * gradient) + c.beta2 * load(v + i);
  store(m + i, m1);
  store(v + i, v1);
  w[i] = c.keep * w[i] - c.lr * (m1 / (sqrtf(v1) * c.root2 + c.eps));
}

constexpr int64_t kPiece = 16384;

__global__ void squares(double* part, const float* x, int64_t n) {
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kPiece, end = min(begin + kPiece, n);
  double total = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads)
    total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  total = block_sum(total);
  if (threadIdx.x == 0) part[blockIdx.x] = total;
}

__global__ void add_pieces(double* sum, const double* part, int64_t pieces) {
  double total = 0;
  for (int64_t i = threadIdx.x; i < pieces; i += kThreads) total += part[i];
  total = block_sum(total);
  if (threadIdx.x == 0) *sum += total;
}

__global__ void ema(float* average, const float* w, float decay, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) average[i] = decay * average[i] + (1.0f - decay) * w[i];
}

}  // namespace

void adamw_step(Stream& s, Tensor w, Tensor m, Tensor v, const Tensor& g, const AdamW& config) {
  const int64_t n = w.size();
  if (n == 0) return;
  const Factors c = factors(config);
  const cudaStream_t stream = s.queue().stream();
  if (m.dtype == DType::f32)
    adamw<<<blocks(n, kThreads), kThreads, 0, stream>>>(w.f32(), m.f32(), v.f32(), g.f32(), c, n);
  else
    adamw<<<blocks(n, kThreads), kThreads, 0, stream>>>(w.f32(), m.ptr<half_t>(), v.ptr<half_t>(), g.f32(), c, n);
  check_launch("adamw_step");
}

void sum_squares(Stream& s, Tensor sum_1, const Tensor& x) {
  const int64_t n = x.size();
  if (n == 0) return;
  const unsigned pieces = blocks(n, kPiece);
  double* part = static_cast<double*>(s.queue().scratch(pieces * sizeof(double)));
  const cudaStream_t stream = s.queue().stream();
  squares<<<pieces, kThreads, 0, stream>>>(part, x.f32(), n);
  add_pieces<<<1, kThreads, 0, stream>>>(sum_1.ptr<double>(), part, pieces);
  check_launch("sum_squares");
}

void ema_update(Stream& s, Tensor average, const Tensor& w, float decay) {
  const int64_t n = w.size();
  if (n == 0) return;
  ema<<<blocks(n, kThreads), kThreads, 0, s.queue().stream()>>>(average.f32(), w.f32(), decay, n);
  check_launch("ema_update");
}

}  // namespace sluice::cuda
