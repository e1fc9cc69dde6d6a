// Products with packed bf16 and FP8 weights and few rows on tensor cores (mma.sync m16n8k16): weights are the left
// side, so that 8 rows of activations are a whole mma. Weights come from memory straight into registers, in the order
// in which they were packed.
#include "ops/cuda/packed_tile.cuh"

namespace sluice::cuda {
namespace {

// Few rows: a block takes 16 columns of the output; its warps take turns at groups of 128 of k, whose sums meet in
// shared memory, where they are added in order.
constexpr int kPartFloats = 8192;

template <int kRows>
using Parts = float[kPartFloats / (16 * kRows)][16 * kRows];

/// This lane's rows of activations; null where there is none.
template <int kRows>
using RowPointers = const char * [kRows / 8];

/// part = the sums of one group for 16 columns and kRows rows, whose activations begin `offset` bytes further on.
template <class E, int kRows>
__device__ void multiply_group(float (&part)[kRows / 8][4], const char* weights, const RowPointers<kRows>& x,
                               int64_t offset) {
  WeightTile<E> tile[2];
  tile[0].load(weights);
  tile[1].load(weights + WeightTile<E>::kBytes);
#pragma unroll
  for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
    for (int c = 0; c < 4; ++c) part[n][c] = 0;
#pragma unroll
  for (int b = 0; b < 2; ++b) {
    RowWords words[kRows / 8];
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
      words[n].load(x[n] ? x[n] + offset + b * kTileCols * 2 : nullptr);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      uint32_t left[4];
      tile[b].left(left, j);
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n) {
        const uint2 right = words[n].right(j);
        multiply_bf16(part[n], left, right.x, right.y);
      }
    }
  }
}

/// The weights of this block begin their way to the L2 cache.
template <class E>
__device__ void prefetch_weights(const PackedLaunch& p, int expert) {
  constexpr int64_t kCacheLine = 128;
  const PackedSide& side = find_side(p, static_cast<int>(blockIdx.x));
  const int64_t bytes = (p.K + kSumCols - 1) / kSumCols * 2 * WeightTile<E>::kBytes;
  const char* from = expert_data(side, expert) + (static_cast<int64_t>(blockIdx.x) - side.first_tile) * bytes;
  for (int64_t at = threadIdx.x * kCacheLine; at < bytes; at += kLaunchThreads * kCacheLine)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from + at));
}

template <class E, int kRows>
__global__ __launch_bounds__(kLaunchThreads) void few_rows(const __grid_constant__ PackedLaunch p) {
  constexpr int kOutputs = 16 * kRows, kRound = kPartFloats / kOutputs;
  constexpr int kPerThread = (kOutputs + kLaunchThreads - 1) / kLaunchThreads;
  __shared__ __align__(sizeof(float2)) Parts<kRows> parts;  // written two at a time
  __shared__ float scale_of[kRound];
  if (!p.offsets_E1) prefetch_weights<E>(p, static_cast<int>(blockIdx.z));
  wait_for_previous();
  RowTile t;
  if (!find_rows(t, p, kRows, static_cast<int>(blockIdx.y))) return;
  const PackedSide& side = find_side(p, static_cast<int>(blockIdx.x));
  const int64_t tile = static_cast<int64_t>(blockIdx.x) - side.first_tile, groups = (p.K + kSumCols - 1) / kSumCols;
  const char* weights = expert_data(side, t.expert) + tile * groups * 2 * WeightTile<E>::kBytes;
  const float* scales = expert_scales(side, t.expert);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  RowPointers<kRows> x;
#pragma unroll
  for (int n = 0; n < kRows / 8; ++n)
    x[n] = n * 8 + lane / 4 < t.count ? source_row(p, side, t, t.begin + n * 8 + lane / 4) : nullptr;
  float sum[kPerThread] = {};
  for (int64_t first = 0; first < groups; first += kRound) {
    const int64_t count = min(static_cast<int64_t>(kRound), groups - first);
    for (int64_t i = warp; i < count; i += kLaunchWarps) {
      float part[kRows / 8][4];
      if (lane == 0) scale_of[i] = sum_scale(side, scales, tile * kTileRows, first + i, groups);
      multiply_group<E, kRows>(part, weights + (first + i) * 2 * WeightTile<E>::kBytes, x, (first + i) * kSumCols * 2);
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
        for (int c = 0; c < 4; c += 2)
          *reinterpret_cast<float2*>(&parts[i][(lane / 4 + c / 2 * 8) * kRows + n * 8 + lane % 4 * 2]) =
              make_float2(part[n][c], part[n][c + 1]);
    }
    __syncthreads();
#pragma unroll
    for (int o = 0; o < kPerThread; ++o) {
      const int at = o * kLaunchThreads + static_cast<int>(threadIdx.x);
      if (at >= kOutputs) break;
      for (int64_t i = 0; i < count; ++i) sum[o] = fmaf(parts[i][at], scale_of[i], sum[o]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int o = 0; o < kPerThread; ++o) {
    const int at = o * kLaunchThreads + static_cast<int>(threadIdx.x), row = at % kRows;
    const int64_t col = tile * kTileRows + at / kRows;
    if (at < kOutputs && row < t.count && col < side.N) store_output(side, t, row, col, sum[o]);
  }
}

template <class E, int kRows>
void launch_few(cudaStream_t s, PackedLaunch p) {
  const unsigned tiles = place_tiles(p, kTileRows);
  launch_early(s, few_rows<E, kRows>, product_grid(p, tiles, kRows), kLaunchThreads, 0, p);
}

template <class E>
void product_of(cudaStream_t s, PackedLaunch p, bool few) {
  if (few) {
    const int64_t each = p.rows / p.experts;
    if (each <= (p.offsets_E1 ? 4 : 8))
      launch_few<E, 8>(s, p);
    else if (each <= 16)
      launch_few<E, 16>(s, p);
    else
      launch_few<E, 32>(s, p);
    return;
  }
  packed_many_rows(s, p, sizeof(E) == 1);
}

}  // namespace

void packed_bf16_product(cudaStream_t s, const PackedLaunch& p, bool few) {
  product_of<half_t>(s, p, few);
  check_launch("packed bf16 product");
}

void packed_fp8_product(cudaStream_t s, const PackedLaunch& p, bool few) {
  product_of<uint8_t>(s, p, few);
  check_launch("packed FP8 product");
}

}  // namespace sluice::cuda
