#include "ops/elementwise.h"

#include "ops/cuda/kernel.cuh"

namespace sluice::cuda {
namespace {

template <int N, class Y, class X>
__global__ void copy_rows(Rows<Y> y, Rows<const X> x, int64_t n, int64_t cols) {
  const int64_t row = launch_row();
  if (row >= n) return;
  for (int64_t i = threadIdx.x * N; i < cols; i += blockDim.x * N) {
    float v[N];
    load_n<N>(x[row] + i, v);
    store_n<N>(y[row] + i, v);
  }
}

template <int N, class Y, class A, class B>
__global__ void add_rows(Rows<Y> y, Rows<const A> a, Rows<const B> b, int64_t n, int64_t cols) {
  const int64_t row = launch_row();
  if (row >= n) return;
  for (int64_t i = threadIdx.x * N; i < cols; i += blockDim.x * N) {
    float v[N], w[N];
    load_n<N>(a[row] + i, v);
    load_n<N>(b[row] + i, w);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] += w[j];
    store_n<N>(y[row] + i, v);
  }
}

__global__ void zero_rows(Rows<unsigned char> x, int64_t n, int64_t bytes) {
  const int64_t row = launch_row();
  if (row >= n) return;
  for (int64_t i = threadIdx.x; i < bytes; i += blockDim.x) x[row][i] = 0;
}

template <class Y, class X>
void copy_as(cudaStream_t s, const Tensor& y, const Tensor& x) {
  const int64_t n = y.rows(), cols = y.cols();
  if (are_vectors(y, x)) {
    const RowLaunch l(n, cols / kVector);
    copy_rows<kVector><<<l.grid, l.block, 0, s>>>(rows<Y>(y), rows<const X>(x), n, cols);
  } else {
    const RowLaunch l(n, cols);
    copy_rows<1><<<l.grid, l.block, 0, s>>>(rows<Y>(y), rows<const X>(x), n, cols);
  }
}

template <class Y, class A, class B>
void add_as(cudaStream_t s, const Tensor& y, const Tensor& a, const Tensor& b) {
  const int64_t n = y.rows(), cols = y.cols();
  if (are_vectors(y, a, b)) {
    const RowLaunch l(n, cols / kVector);
    add_rows<kVector><<<l.grid, l.block, 0, s>>>(rows<Y>(y), rows<const A>(a), rows<const B>(b), n, cols);
  } else {
    const RowLaunch l(n, cols);
    add_rows<1><<<l.grid, l.block, 0, s>>>(rows<Y>(y), rows<const A>(a), rows<const B>(b), n, cols);
  }
}

template <class Y, class A>
void add_any_b(cudaStream_t s, const Tensor& y, const Tensor& a, const Tensor& b) {
  b.dtype == DType::f32 ? add_as<Y, A, float>(s, y, a, b) : add_as<Y, A, half_t>(s, y, a, b);
}

template <class Y>
void add_any(cudaStream_t s, const Tensor& y, const Tensor& a, const Tensor& b) {
  a.dtype == DType::f32 ? add_any_b<Y, float>(s, y, a, b) : add_any_b<Y, half_t>(s, y, a, b);
}

}  // namespace

void copy(Stream& s, Tensor y, const Tensor& x) {
  if (y.size() == 0) return;
  const cudaStream_t stream = s.queue().stream();
  const bool from_f32 = x.dtype == DType::f32;
  if (y.dtype == DType::i32)
    copy_as<float, float>(stream, y, x);  // the bits
  else if (y.dtype == DType::f32)
    from_f32 ? copy_as<float, float>(stream, y, x) : copy_as<float, half_t>(stream, y, x);
  else
    from_f32 ? copy_as<half_t, float>(stream, y, x) : copy_as<half_t, half_t>(stream, y, x);
  check_launch("copy");
}

void add(Stream& s, Tensor y, const Tensor& a, const Tensor& b) {
  if (y.size() == 0) return;
  y.dtype == DType::f32 ? add_any<float>(s.queue().stream(), y, a, b) : add_any<half_t>(s.queue().stream(), y, a, b);
  check_launch("add");
}

void zero(Stream& s, Tensor x) {
  const int64_t n = x.rows(), size = static_cast<int64_t>(dtype_size(x.dtype)), bytes = x.cols() * size;
  if (x.size() == 0) return;
  if (x.packed()) {
    check_cuda(cudaMemsetAsync(x.data, 0, x.bytes(), s.queue().stream()), "zero");
    return;
  }
  const RowLaunch l(n, bytes);
  zero_rows<<<l.grid, l.block, 0, s.queue().stream()>>>({static_cast<unsigned char*>(x.data), x.ld * size}, n, bytes);
  check_launch("zero");
}

}  // namespace sluice::cuda
