#include "ops/rope.h"

#include "ops/cuda/kernel.cuh"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256;

// A thread takes one pair of one row.
template <class T>
__global__ void rotate(Rows<T> x, const int32_t* position_T, Rows<const float> table, int64_t n, int64_t pairs,
                       int64_t heads, float direction) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t row = at / pairs, i = at % pairs;
  if (row >= n) return;
  const float* cosines = table[position_T[row / heads]];
  const float cosine = cosines[i], sine = direction * cosines[pairs + i];
  T* pair = x[row] + 2 * i;
  const float a = load(pair), b = load(pair + 1);
  store(pair, a * cosine - b * sine);
  store(pair + 1, a * sine + b * cosine);
}

void rotate_any(Stream& s, const Tensor& x, const Tensor& position_T, const Tensor& table, float direction) {
  const int64_t n = x.rows(), pairs = x.cols() / 2;
  if (x.size() == 0) return;
  const int64_t heads = n / position_T.size();
  const int32_t* position = position_T.ptr<int32_t>();
  const unsigned grid = blocks(n * pairs, kThreads);
  const cudaStream_t stream = s.queue().stream();
  if (x.dtype == DType::f32)
    rotate<<<grid, kThreads, 0, stream>>>(rows<float>(x), position, rows<const float>(table), n, pairs, heads,
                                          direction);
  else
    rotate<<<grid, kThreads, 0, stream>>>(rows<half_t>(x), position, rows<const float>(table), n, pairs, heads,
                                          direction);
  check_launch("rope");
}

}  // namespace

void rope_forward(Stream& s, Tensor x, const Tensor& position_T, const Tensor& table) {
  rotate_any(s, x, position_T, table, 1.0f);
}

void rope_backward(Stream& s, Tensor dx, const Tensor& position_T, const Tensor& table) {
  rotate_any(s, dx, position_T, table, -1.0f);
}

}  // namespace sluice::cuda
