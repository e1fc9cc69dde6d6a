#include "ops/loss.h"

#include "ops/cuda/largest.cuh"

namespace sluice::cuda {
namespace {

/// Sum of exp(x - most) over a row, in every thread of the block.
__device__ float sum_of_exponentials(const float* x, int64_t V, float most) {
  float total = 0;
  for (int64_t i = threadIdx.x; i < V; i += blockDim.x) total += expf(x[i] - most);
  return block_sum(total);
}

__global__ void forward(float* loss_T, int32_t* argmax_T, const float* logits, const int32_t* target_T, int64_t V) {
  const int64_t t = blockIdx.x;
  const float* x = logits + t * V;
  const int32_t target = target_T[t];
  const Largest best = block_largest(x, V);
  const float total = sum_of_exponentials(x, V, best.value);
  if (threadIdx.x > 0) return;
  if (argmax_T) argmax_T[t] = best.index;
  loss_T[t] = target < 0 ? 0.0f : logf(total) + (best.value - x[target]);
}

__global__ void backward(float* loss_T, float* logits, const int32_t* target_T, int64_t V, float scale) {
  const int64_t t = blockIdx.x;
  float* x = logits + t * V;
  const int32_t target = target_T[t];
  if (target < 0) {
    for (int64_t i = threadIdx.x; i < V; i += blockDim.x) x[i] = 0;
    if (threadIdx.x == 0) loss_T[t] = 0;
    return;
  }
  const float most = block_largest(x, V).value, total = sum_of_exponentials(x, V, most);
  if (threadIdx.x == 0) loss_T[t] = logf(total) + (most - x[target]);
  __syncthreads();  // before x[target] is replaced
  const float factor = scale / total;
  for (int64_t i = threadIdx.x; i < V; i += blockDim.x)
    x[i] = expf(x[i] - most) * factor - (i == target ? scale : 0.0f);
}

}  // namespace

void cross_entropy_forward(Stream& s, Tensor loss_T, Tensor argmax_T, const Tensor& logits, const Tensor& target_T) {
  const int64_t T = logits.rows(), V = logits.cols();
  if (T == 0) return;
  forward<<<static_cast<unsigned>(T), row_threads(V), 0, s.queue().stream()>>>(
      loss_T.f32(), argmax_T ? argmax_T.ptr<int32_t>() : nullptr, logits.f32(), target_T.ptr<int32_t>(), V);
  check_launch("cross_entropy_forward");
}

void cross_entropy_backward(Stream& s, Tensor loss_T, Tensor logits, const Tensor& target_T, float scale) {
  const int64_t T = logits.rows(), V = logits.cols();
  if (T == 0) return;
  backward<<<static_cast<unsigned>(T), row_threads(V), 0, s.queue().stream()>>>(loss_T.f32(), logits.f32(),
                                                                                target_T.ptr<int32_t>(), V, scale);
  check_launch("cross_entropy_backward");
}

}  // namespace sluice::cuda
