#include "ops/norm.h"

#include "ops/cuda/kernel.cuh"

namespace sluice::cuda {
namespace {

template <int N, class T>
__global__ void forward(Rows<T> y, float* r, Rows<const T> x, const T* w, float eps, int64_t D) {
  const int64_t t = blockIdx.x;
  float squares = 0;
  for (int64_t i = threadIdx.x * N; i < D; i += blockDim.x * N) {
    float v[N];
    load_n<N>(x[t] + i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) squares += v[j] * v[j];
  }
  const float rt = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(D) + eps);
  if (threadIdx.x == 0) r[t] = rt;
  for (int64_t i = threadIdx.x * N; i < D; i += blockDim.x * N) {
    float v[N], weight[N];
    load_n<N>(x[t] + i, v);
    load_n<N>(w + i, weight);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = v[j] * rt * weight[j];
    store_n<N>(y[t] + i, v);
  }
}

// With g = dy w:  dx = r (g - xhat mean(g xhat)) = r (g - c x),  c = r^2 mean(g x)
template <int N, class T>
__global__ void backward_input(Rows<T> dx, Rows<const T> dy, Rows<const T> x, const T* w, const float* r, int64_t D) {
  const int64_t t = blockIdx.x;
  float gx = 0;
  for (int64_t i = threadIdx.x * N; i < D; i += blockDim.x * N) {
    float d[N], v[N], weight[N];
    load_n<N>(dy[t] + i, d);
    load_n<N>(x[t] + i, v);
    load_n<N>(w + i, weight);
#pragma unroll
    for (int j = 0; j < N; ++j) gx += d[j] * weight[j] * v[j];
  }
  const float rt = r[t], c = rt * rt * block_sum(gx) / static_cast<float>(D);
  for (int64_t i = threadIdx.x * N; i < D; i += blockDim.x * N) {
    float d[N], v[N], weight[N];
    load_n<N>(dy[t] + i, d);
    load_n<N>(x[t] + i, v);
    load_n<N>(w + i, weight);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = rt * (d[j] * weight[j] - c * v[j]);
    store_n<N>(dx[t] + i, v);
  }
}

constexpr int kWarps = 8;
constexpr int64_t kPartRows = 128;  // rows that a block sums

// A block takes 32 N columns of a part of the rows; warp w sums the rows w, w + 8, ...; the warps are added in order.
template <int N, class T>
__global__ void backward_weight(float* part, Rows<const T> dy, Rows<const T> x, const float* r, int64_t n, int64_t D) {
  __shared__ float sums[kWarps][32 * N];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * 32 * N, i = first + lane * N;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * kPartRows, end = min(begin + kPartRows, n);
  float total[N] = {};
  if (i < D)
    for (int64_t t = begin + warp; t < end; t += kWarps) {
      float d[N], v[N];
      load_n<N>(dy[t] + i, d);
      load_n<N>(x[t] + i, v);
      const float rt = r[t];
#pragma unroll
      for (int j = 0; j < N; ++j) total[j] += d[j] * (v[j] * rt);
    }
#pragma unroll
  for (int j = 0; j < N; ++j) sums[warp][lane * N + j] = total[j];
  __syncthreads();
  const int c = static_cast<int>(threadIdx.x);
  if (c >= 32 * N || first + c >= D) return;
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += sums[w][c];
  part[blockIdx.y * D + first + c] = sum;
}

/// dw += the sums of all parts.
__global__ void add_parts(float* dw, const float* part, int64_t parts, int64_t D) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= D) return;
  float sum = 0;
#pragma unroll 8
  for (int64_t p = 0; p < parts; ++p) sum += part[p * D + i];
  dw[i] += sum;
}

template <class T>
void forward_as(cudaStream_t s, const Tensor& y, const Tensor& r, const Tensor& x, const Tensor& w, float eps) {
  const int64_t D = x.cols();
  const unsigned n = static_cast<unsigned>(x.rows());
  const T* weight = static_cast<const T*>(w.data);
  if (are_vectors(y, x, w))
    forward<kVector><<<n, row_threads(D / kVector), 0, s>>>(rows<T>(y), r.f32(), rows<const T>(x), weight, eps, D);
  else
    forward<1><<<n, row_threads(D), 0, s>>>(rows<T>(y), r.f32(), rows<const T>(x), weight, eps, D);
}

template <class T>
void backward_input_as(cudaStream_t s, const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& w,
                       const Tensor& r) {
  const int64_t D = x.cols();
  const unsigned n = static_cast<unsigned>(x.rows());
  const T* weight = static_cast<const T*>(w.data);
  if (are_vectors(dx, dy, x, w))
    backward_input<kVector>
        <<<n, row_threads(D / kVector), 0, s>>>(rows<T>(dx), rows<const T>(dy), rows<const T>(x), weight, r.f32(), D);
  else
    backward_input<1>
        <<<n, row_threads(D), 0, s>>>(rows<T>(dx), rows<const T>(dy), rows<const T>(x), weight, r.f32(), D);
}

template <class T>
void backward_weight_as(Queue& queue, const Tensor& dw, const Tensor& dy, const Tensor& x, const Tensor& r) {
  const int64_t n = x.rows(), D = x.cols();
  const unsigned parts = blocks(n, kPartRows);
  float* part = static_cast<float*>(queue.scratch(parts * static_cast<size_t>(D) * sizeof(float)));
  const auto launch = [&](auto kernel, int64_t columns) {
    kernel<<<dim3(blocks(D, columns), parts), 32 * kWarps, 0, queue.stream()>>>(part, rows<const T>(dy),
                                                                                rows<const T>(x), r.f32(), n, D);
  };
  are_vectors(dy, x) ? launch(backward_weight<kVector, T>, 32 * kVector) : launch(backward_weight<1, T>, 32);
  constexpr unsigned kThreads = 64;
  add_parts<<<blocks(D, kThreads), kThreads, 0, queue.stream()>>>(dw.f32(), part, parts, D);
}

}  // namespace

void rmsnorm_forward(Stream& s, Tensor y, Tensor r, const Tensor& x, const Tensor& w, float eps) {
  if (x.size() == 0) return;
  const cudaStream_t stream = s.queue().stream();
  x.dtype == DType::f32 ? forward_as<float>(stream, y, r, x, w, eps) : forward_as<half_t>(stream, y, r, x, w, eps);
  check_launch("rmsnorm_forward");
}

void rmsnorm_backward_input(Stream& s, Tensor dx, const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& r) {
  if (x.size() == 0) return;
  const cudaStream_t stream = s.queue().stream();
  x.dtype == DType::f32 ? backward_input_as<float>(stream, dx, dy, x, w, r)
                        : backward_input_as<half_t>(stream, dx, dy, x, w, r);
  check_launch("rmsnorm_backward_input");
}

void rmsnorm_backward_weight(Stream& s, Tensor dw, const Tensor& dy, const Tensor& x, const Tensor& r) {
  if (x.size() == 0) return;
  x.dtype == DType::f32 ? backward_weight_as<float>(s.queue(), dw, dy, x, r)
                        : backward_weight_as<half_t>(s.queue(), dw, dy, x, r);
  check_launch("rmsnorm_backward_weight");
}

}  // namespace sluice::cuda
