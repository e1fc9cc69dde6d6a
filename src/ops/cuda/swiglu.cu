#include "ops/swiglu.h"

#include "ops/cuda/kernel.cuh"

namespace sluice::cuda {
namespace {

__device__ float sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }

template <int N, class T>
__global__ void forward(Rows<T> h, Rows<const T> g, Rows<const T> u, int64_t n, int64_t cols) {
  const int64_t row = launch_row();
  if (row >= n) return;
  for (int64_t i = threadIdx.x * N; i < cols; i += blockDim.x * N) {
    float z[N], up[N];
    load_n<N>(g[row] + i, z);
    load_n<N>(u[row] + i, up);
#pragma unroll
    for (int j = 0; j < N; ++j) z[j] = z[j] * sigmoid(z[j]) * up[j];
    store_n<N>(h[row] + i, z);
  }
}

template <int N, class T>
__global__ void backward(Rows<T> dg, Rows<T> du, Rows<const T> dh, Rows<const T> g, Rows<const T> u, int64_t n,
                         int64_t cols) {
  const int64_t row = launch_row();
  if (row >= n) return;
  for (int64_t i = threadIdx.x * N; i < cols; i += blockDim.x * N) {
    float d[N], z[N], up[N];
    load_n<N>(dh[row] + i, d);
    load_n<N>(g[row] + i, z);
    load_n<N>(u[row] + i, up);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float sig = sigmoid(z[j]);
      up[j] = d[j] * up[j] * (sig * (1.0f + z[j] * (1.0f - sig)));
      d[j] *= z[j] * sig;
    }
    store_n<N>(dg[row] + i, up);
    store_n<N>(du[row] + i, d);
  }
}

template <class T>
void forward_as(cudaStream_t s, const Tensor& h, const Tensor& g, const Tensor& u) {
  const int64_t n = g.rows(), cols = g.cols();
  const auto launch = [&](auto kernel, int64_t at_once) {
    const RowLaunch l(n, cols / at_once);
    kernel<<<l.grid, l.block, 0, s>>>(rows<T>(h), rows<const T>(g), rows<const T>(u), n, cols);
  };
  are_vectors(h, g, u) ? launch(forward<kVector, T>, kVector) : launch(forward<1, T>, 1);
}

template <class T>
void backward_as(cudaStream_t s, const Tensor& dg, const Tensor& du, const Tensor& dh, const Tensor& g,
                 const Tensor& u) {
  const int64_t n = g.rows(), cols = g.cols();
  const auto launch = [&](auto kernel, int64_t at_once) {
    const RowLaunch l(n, cols / at_once);
    kernel<<<l.grid, l.block, 0, s>>>(rows<T>(dg), rows<T>(du), rows<const T>(dh), rows<const T>(g), rows<const T>(u),
                                      n, cols);
  };
  are_vectors(dg, du, dh, g, u) ? launch(backward<kVector, T>, kVector) : launch(backward<1, T>, 1);
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
