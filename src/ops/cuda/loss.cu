#include "ops/loss.h"

#include <cooperative_groups.h>

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

constexpr int kCluster = 8, kThreads = 512;  // blocks that share a row; threads of each

/// Sum of exp(x - most) over some elements, and their largest.
struct Exponentials {
  float most = -INFINITY, total = 0;
};

__device__ Exponentials joined(Exponentials a, Exponentials b) {
  const float most = fmaxf(a.most, b.most);
  if (most == -INFINITY) return {most, a.total + b.total};  // neither has elements, or NaN alone
  return {most, a.total * expf(a.most - most) + b.total * expf(b.most - most)};
}

/// Over the elements [begin, end) of a row, N at a time; in thread 0.
template <int N>
__device__ Exponentials block_exponentials(const float* x, int64_t begin, int64_t end) {
  __shared__ Exponentials part[kThreads / 32];
  Exponentials e;
  for (int64_t i = begin + threadIdx.x * N; i < end; i += kThreads * N) {
    float v[N], most = e.most;
    load_n<N>(x + i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) most = fmaxf(most, v[j]);
    if (most > e.most) e.total *= expf(e.most - most), e.most = most;
#pragma unroll
    for (int j = 0; j < N; ++j) e.total += expf(v[j] - e.most);
  }
#pragma unroll
  for (int o = 16; o > 0; o /= 2) e = joined(e, {__shfl_xor_sync(~0u, e.most, o), __shfl_xor_sync(~0u, e.total, o)});
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = e;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int w = 1; w < kThreads / 32; ++w) e = joined(e, part[w]);
  return e;
}

// A cluster takes one row, each of its blocks a part of it. The logits are read from memory once: the cluster's rows
// are in the cache when they are read again.
template <int N, class G>
__global__ __cluster_dims__(kCluster)
    __launch_bounds__(kThreads) void backward(float* loss_T, G* dlogits, const float* logits, const int32_t* target_T,
                                              int64_t V, float scale) {
  __shared__ Exponentials shared;
  const auto cluster = cooperative_groups::this_cluster();
  const int64_t t = blockIdx.x / kCluster, rank = blockIdx.x % kCluster;
  const int64_t per_block = (V + kCluster * kVector - 1) / (kCluster * kVector) * kVector;
  const int64_t begin = min(rank * per_block, V), end = min(begin + per_block, V);
  const float* x = logits + t * V;
  G* d = dlogits + t * V;
  const int32_t target = target_T[t];
  if (target < 0) {
    const float zeros[N] = {};
    for (int64_t i = begin + threadIdx.x * N; i < end; i += kThreads * N) store_n<N>(d + i, zeros);
    if (rank == 0 && threadIdx.x == 0) loss_T[t] = 0;
    return;
  }
  const float logit = x[target];
  const Exponentials mine = block_exponentials<N>(x, begin, end);
  if (threadIdx.x == 0) shared = mine;
  cluster.sync();  // also: every thread has the target's logit, which is replaced below
  Exponentials all;
  for (unsigned r = 0; r < kCluster; ++r) all = joined(all, *cluster.map_shared_rank(&shared, r));
  if (rank == 0 && threadIdx.x == 0) loss_T[t] = logf(all.total) + (all.most - logit);
  const float factor = scale / all.total;
  for (int64_t i = begin + threadIdx.x * N; i < end; i += kThreads * N) {
    float v[N];
    load_n<N>(x + i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = expf(v[j] - all.most) * factor - (i + j == target ? scale : 0.0f);
    store_n<N>(d + i, v);
  }
  cluster.sync();  // the others have read `shared`
}

template <class G>
void backward_as(cudaStream_t s, const Tensor& loss_T, const Tensor& dlogits, const Tensor& logits,
                 const Tensor& target_T, float scale) {
  const unsigned grid = static_cast<unsigned>(logits.rows()) * kCluster;
  const auto launch = [&](auto kernel) {
    kernel<<<grid, kThreads, 0, s>>>(loss_T.f32(), dlogits.ptr<G>(), logits.f32(), target_T.ptr<int32_t>(),
                                     logits.cols(), scale);
  };
  are_vectors(logits, dlogits) ? launch(backward<kVector, G>) : launch(backward<1, G>);
}

}  // namespace

void cross_entropy_forward(Stream& s, Tensor loss_T, Tensor argmax_T, const Tensor& logits, const Tensor& target_T) {
  const int64_t T = logits.rows(), V = logits.cols();
  if (T == 0) return;
  forward<<<static_cast<unsigned>(T), row_threads(V), 0, s.queue().stream()>>>(
      loss_T.f32(), argmax_T ? argmax_T.ptr<int32_t>() : nullptr, logits.f32(), target_T.ptr<int32_t>(), V);
  check_launch("cross_entropy_forward");
}

void cross_entropy_backward(Stream& s, Tensor loss_T, Tensor dlogits, const Tensor& logits, const Tensor& target_T,
                            float scale) {
  if (logits.size() == 0) return;
  const cudaStream_t stream = s.queue().stream();
  dlogits.dtype == DType::f32 ? backward_as<float>(stream, loss_T, dlogits, logits, target_T, scale)
                              : backward_as<half_t>(stream, loss_T, dlogits, logits, target_T, scale);
  check_launch("cross_entropy_backward");
}

}  // namespace sluice::cuda
