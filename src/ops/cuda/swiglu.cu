#include "ops/swiglu.h"

#include "ops/cuda/kernel.cuh"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }

template <int N, class T>
__global__ void forward(T* h, const T* g, const T* u, int64_t n) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (i >= n) return;
  float z[N], up[N];
  load_n<N>(g + i, z);
  load_n<N>(u + i, up);
#pragma unroll
  for (int j = 0; j < N; ++j) z[j] = z[j] * sigmoid(z[j]) * up[j];
  store_n<N>(h + i, z);
}

template <int N, class T>
__global__ void backward(T* dg, T* du, const T* dh, const T* g, const T* u, int64_t n) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (i >= n) return;
  float d[N], z[N], up[N];
  load_n<N>(dh + i, d);
  load_n<N>(g + i, z);
  load_n<N>(u + i, up);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float sig = sigmoid(z[j]);
    up[j] = d[j] * up[j] * (sig * (1.0f + z[j] * (1.0f - sig)));
    d[j] *= z[j] * sig;
  }
  store_n<N>(dg + i, up);
  store_n<N>(du + i, d);
}

/// A packed tensor as one row.
Tensor flat(const Tensor& t) { return Tensor(t.data, t.dtype, {t.size()}); }

template <class T>
void forward_as(cudaStream_t s, const Tensor& h, const Tensor& g, const Tensor& u) {
  const int64_t n = g.size();
  if (are_vectors(flat(h), flat(g), flat(u)))
    forward<kVector><<<blocks(n / kVector, kThreads), kThreads, 0, s>>>(h.ptr<T>(), g.ptr<T>(), u.ptr<T>(), n);
  else
    forward<1><<<blocks(n, kThreads), kThreads, 0, s>>>(h.ptr<T>(), g.ptr<T>(), u.ptr<T>(), n);
}

template <class T>
void backward_as(cudaStream_t s, const Tensor& dg, const Tensor& du, const Tensor& dh, const Tensor& g,
                 const Tensor& u) {
  const int64_t n = g.size();
  if (are_vectors(flat(dg), flat(du), flat(dh), flat(g), flat(u)))
    backward<kVector><<<blocks(n / kVector, kThreads), kThreads, 0, s>>>(dg.ptr<T>(), du.ptr<T>(), dh.ptr<T>(),
                                                                         g.ptr<T>(), u.ptr<T>(), n);
  else
    backward<1>
        <<<blocks(n, kThreads), kThreads, 0, s>>>(dg.ptr<T>(), du.ptr<T>(), dh.ptr<T>(), g.ptr<T>(), u.ptr<T>(), n);
}

}  // namespace

void swiglu_forward(Stream& s, Tensor h, const Tensor& g, const Tensor& u) {
  if (g.size() == 0) return;
  const cudaStream_t stream = s.queue().stream();
  g.dtype == DType::f32 ? forward_as<float>(stream, h, g, u) : forward_as<half_t>(stream, h, g, u);
  check_launch("swiglu_forward");
}

void swiglu_backward(Stream& s, Tensor dg, Tensor du, const Tensor& dh, const Tensor& g, const Tensor& u) {
  if (g.size() == 0) return;
  const cudaStream_t stream = s.queue().stream();
  g.dtype == DType::f32 ? backward_as<float>(stream, dg, du, dh, g, u) : backward_as<half_t>(stream, dg, du, dh, g, u);
  check_launch("swiglu_backward");
}

}  // namespace sluice::cuda
