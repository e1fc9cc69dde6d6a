// Draws of tokens: a race of exponentials among all ids of a row (ops/sample.h). Blocks take parts of a row, and a warp
// finds the winner of the winners.
#include "ops/cuda/largest.cuh"
#include "ops/fused.h"
#include "ops/sample.h"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256, kParts = 16;
/// Below this the softmax is one-hot in float32 anyway, and dividing by it could overflow.
constexpr float kColdest = 1e-5f;

/// Arrivals nearer to each other than this, in logarithms, are too close to tell: far above what float32 rounds to, as
/// is that part of the values, which are large at low temperatures.
constexpr float kClose = 1e-4f, kClosePart = 0x1p-20f;

/// The first to arrive, and what the second has.
struct Leader {
  Largest first{-INFINITY, INT_MAX};
  float second = -INFINITY;

  __device__ void meet(const Leader& other) {
    const float lower = fminf(first.value, other.first.value);
    second = fmaxf(fmaxf(second, other.second), lower);
    first = larger(first, other.first);
  }
};

/// -log of the time at which id i arrives, were its logit 0. Of small u the low bits count.
__device__ float head_start(uint64_t key, uint32_t i) {
  constexpr uint32_t kSmall = 1u << 20;
  const uint32_t head = noise_head(key, i);
  if (head >= kSmall) return -logf(-log1pf(-(static_cast<float>(head) * 0x1p-32f)));
  return -logf(static_cast<float>(-log1p(-noise_uniform(key, i))));
}

__device__ Leader leader_of_warp(Leader best) {
#pragma unroll
  for (int o = 16; o > 0; o /= 2)
    best.meet({{__shfl_xor_sync(~0u, best.first.value, o), __shfl_xor_sync(~0u, best.first.index, o)},
               __shfl_xor_sync(~0u, best.second, o)});
  return best;
}

__global__ void race(Leader* winner, Rows<const float> logits, const DrawKey* keys, int64_t limit) {
  wait_for_previous();
  __shared__ Leader part[kThreads / 32];
  const int64_t t = blockIdx.y, size = (limit + kParts - 1) / kParts, begin = blockIdx.x * size;
  const DrawKey draw = keys[t];
  const uint64_t key = static_cast<uint64_t>(draw.high) << 32 | draw.low;
  const float scale = 1.0f / fmaxf(draw.temperature, kColdest);
  Leader best;
  for (int64_t i = begin + threadIdx.x; i < min(begin + size, limit); i += kThreads) {
    const float x = logits[t][i];
    const float value = draw.temperature == 0 ? x : x * scale + head_start(key, static_cast<uint32_t>(i));
    if (!isnan(value)) best.meet({{value, static_cast<int>(i)}, -INFINITY});
  }
  best = leader_of_warp(best);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int w = 1; w < kThreads / 32; ++w) best.meet(part[w]);
  winner[t * kParts + blockIdx.x] = best;
}

__global__ void best_winner(int32_t* ids_T, const Leader* winner, const DrawKey* keys) {
  wait_for_previous();
  const Leader best = leader_of_warp(threadIdx.x < kParts ? winner[blockIdx.x * kParts + threadIdx.x] : Leader{});
  if (threadIdx.x > 0) return;
  const bool is_close = keys[blockIdx.x].temperature != 0 &&
                        best.first.value - best.second < kClose + kClosePart * fabsf(best.first.value);
  ids_T[blockIdx.x] = best.first.index == INT_MAX ? 0 : is_close ? -1 : best.first.index;  // the first: no numbers
}

}  // namespace

void draw_rows(Stream& s, Tensor ids_T, const Tensor& logits, const Tensor& keys, int64_t limit) {
  static_assert(sizeof(DrawKey) == 3 * sizeof(int32_t));
  const unsigned T = static_cast<unsigned>(logits.rows());
  if (T == 0) return;
  Leader* winner = static_cast<Leader*>(s.queue().scratch(T * kParts * sizeof(Leader)));
  const DrawKey* draws = reinterpret_cast<const DrawKey*>(keys.data);
  const cudaStream_t stream = s.queue().stream();
  launch_early(stream, race, dim3(kParts, T), kThreads, 0, winner, rows<const float>(logits), draws, limit);
  launch_early(stream, best_winner, T, 32, 0, ids_T.ptr<int32_t>(), winner, draws);
  check_launch("draw_rows");
}

}  // namespace sluice::cuda
