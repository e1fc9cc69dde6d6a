// Products with packed bf16 and FP8 weights on tensor cores (mma.sync m16n8k16): weights are the left side, so that 8
// rows of activations are a whole mma. Weights come from memory straight into registers, in the order in which they
// were packed.
#include "ops/cuda/packed_tile.cuh"

namespace sluice::cuda {
namespace {

// Few rows: a block takes 16 columns of the output; its warps take turns at groups of 128 of k, whose sums meet in
// shared memory, where they are added in order.
constexpr int kPartFloats = 8192;

template <int kRows>
using Parts = float[kPartFloats / (16 * kRows)][16 * kRows];

/// part = the sums of one group for 16 columns and kRows rows.
template <class E, int kRows>
__device__ void multiply_group(float (&part)[kRows / 8][4], const char* weights, const char* x, int64_t pitch,
                               const RowTile& t) {
  const int g = static_cast<int>(threadIdx.x) % 32 / 4, lane_k = static_cast<int>(threadIdx.x) % 4 * 16;
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
      const uint4* from = reinterpret_cast<const uint4*>(x + (n * 8 + g) * pitch + (b * 64 + lane_k) * 2);
      const bool is_row = n * 8 + g < t.count;
      words[n].half[0] = is_row ? from[0] : make_uint4(0, 0, 0, 0);
      words[n].half[1] = is_row ? from[1] : make_uint4(0, 0, 0, 0);
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

template <class E, int kRows>
__global__ __launch_bounds__(kLaunchThreads) void few_rows(const __grid_constant__ PackedLaunch p) {
  constexpr int kOutputs = 16 * kRows, kRound = kPartFloats / kOutputs;
  constexpr int kPerThread = (kOutputs + kLaunchThreads - 1) / kLaunchThreads;
  __shared__ __align__(sizeof(float2)) Parts<kRows> parts;  // written two at a time
  __shared__ float scale_of[kRound];
  RowTile t;
  if (!find_rows(t, p, kRows)) return;
  const PackedSide& side = find_side(p, static_cast<int>(blockIdx.x));
  const int64_t tile = static_cast<int64_t>(blockIdx.x) - side.first_tile, groups = (p.K + kSumCols - 1) / kSumCols;
  const char* weights = expert_data(side, t.expert) + tile * groups * 2 * WeightTile<E>::kBytes;
  const float* scales = expert_scales(side, t.expert);
  const char* x = side.x + t.begin * p.x_pitch;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  float sum[kPerThread] = {};
  for (int64_t first = 0; first < groups; first += kRound) {
    const int64_t count = min(static_cast<int64_t>(kRound), groups - first);
    for (int64_t i = warp; i < count; i += kLaunchWarps) {
      float part[kRows / 8][4];
      if (lane == 0) scale_of[i] = sum_scale(side, scales, tile * kTileRows, first + i, groups);
      multiply_group<E, kRows>(part, weights + (first + i) * 2 * WeightTile<E>::kBytes, x + (first + i) * kSumCols * 2,
                               p.x_pitch, t);
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
    if (at < kOutputs && row < t.count && col < side.N) store_output(side, t.begin + row, col, sum[o]);
  }
}

// Many rows: a warp takes 16 columns of the output and 64 rows, a block 128 and 64. Activations pass through shared
// memory; the next ones are on their way while these are multiplied.
constexpr int kManyRows = 64, kManyCols = kLaunchWarps * static_cast<int>(kTileRows);

/// 64 columns of 64 rows of activations. Of 16-byte piece 2 t + h of a row the place is h, t; odd rows have the halves
/// exchanged, so that the reads of 8 lanes meet no bank twice.
struct ActivationTile {
  uint4 piece[kManyRows][8];
  __device__ static int place(int row, int t, int half) { return (half ^ (row & 1)) * 4 + t; }
};

/// Begins to fill a tile from column `k` on; rows that the block does not have are zero.
__device__ void begin_tile(ActivationTile& tile, const char* x, int64_t pitch, int64_t k, int rows) {
#pragma unroll
  for (int n = 0; n < kManyRows * 8 / kLaunchThreads; ++n) {
    const int at = n * kLaunchThreads + static_cast<int>(threadIdx.x), row = at / 8, piece = at % 8;
    uint4* to = &tile.piece[row][ActivationTile::place(row, piece / 2, piece % 2)];
    const char* from = x + (row < rows ? row : 0) * pitch + k * 2 + piece * 16;
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
        "l"(from), "r"(row < rows ? 16 : 0));
  }
  asm volatile("cp.async.commit_group;");
}

__device__ RowWords words_of(const ActivationTile& tile, int row) {
  const int t = static_cast<int>(threadIdx.x) % 4;
  row += static_cast<int>(threadIdx.x) % 32 / 4;
  return {{tile.piece[row][ActivationTile::place(row, t, 0)], tile.piece[row][ActivationTile::place(row, t, 1)]}};
}

using ManySums = float[kManyRows / 8][4];

template <class E>
__device__ void multiply_tile(ManySums& part, const WeightTile<E>& weights, const ActivationTile& tile) {
  uint32_t left[4][4];
#pragma unroll
  for (int j = 0; j < 4; ++j) weights.left(left[j], j);
#pragma unroll
  for (int n = 0; n < kManyRows / 8; ++n) {
    const RowWords words = words_of(tile, n * 8);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint2 right = words.right(j);
      multiply_bf16(part[n], left[j], right.x, right.y);
    }
  }
}

template <class E>
__global__ __launch_bounds__(kLaunchThreads) void many_rows(const __grid_constant__ PackedLaunch p) {
  constexpr int kStages = 3;
  __shared__ ActivationTile tile[kStages];
  RowTile t;
  if (!find_rows(t, p, kManyRows)) return;
  const PackedSide& side = find_side(p, static_cast<int>(blockIdx.x));
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t col = (static_cast<int64_t>(blockIdx.x) - side.first_tile) * kManyCols + warp * kTileRows;
  const int64_t groups = (p.K + kSumCols - 1) / kSumCols, steps = groups * 2;
  const bool has_cols = col < side.N;  // warps beyond the matrix only help to load
  const char* weights = expert_data(side, t.expert) + (has_cols ? col / kTileRows : 0) * steps * WeightTile<E>::kBytes;
  const float* scales = expert_scales(side, t.expert);
  const char* x = side.x + t.begin * p.x_pitch;
  ManySums sum = {}, part = {};
  float scale = 0;
  WeightTile<E> next;
  next.load(weights);
  begin_tile(tile[0], x, p.x_pitch, 0, t.count);
  begin_tile(tile[1], x, p.x_pitch, kTileCols, t.count);  // there are two steps at least
  for (int64_t step = 0; step < steps; ++step) {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    const WeightTile<E> now = next;
    if (step % 2 == 0 && has_cols) scale = sum_scale(side, scales, col, step / 2, groups);
    if (step + 1 < steps) next.load(weights + (step + 1) * WeightTile<E>::kBytes);
    if (step + 2 < steps)
      begin_tile(tile[(step + 2) % kStages], x, p.x_pitch, (step + 2) * kTileCols, t.count);
    else
      asm volatile("cp.async.commit_group;");  // an empty one, so that the count stays right
    if (has_cols) multiply_tile<E>(part, now, tile[step % kStages]);
    if (step % 2 == 0) continue;
#pragma unroll
    for (int n = 0; n < kManyRows / 8; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        sum[n][c] = fmaf(part[n][c], scale, sum[n][c]);
        part[n][c] = 0;
      }
  }
#pragma unroll
  for (int n = 0; n < kManyRows / 8; ++n)
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int row = n * 8 + mma_col(c);
      const int64_t out = col + mma_row(c);
      if (row < t.count && out < side.N) store_output(side, t.begin + row, out, sum[n][c]);
    }
}

/// Gives every matrix its blocks; the number of all.
unsigned place_tiles(PackedLaunch& p, int64_t cols) {
  int64_t tiles = 0;
  for (int i = 0; i < p.sides; ++i) {
    p.side[i].first_tile = static_cast<int>(tiles);
    tiles += (p.side[i].N + cols - 1) / cols;
  }
  return static_cast<unsigned>(tiles);
}

template <class E, int kRows>
void launch_few(cudaStream_t s, PackedLaunch p) {
  const unsigned tiles = place_tiles(p, kTileRows);
  few_rows<E, kRows><<<dim3(tiles, static_cast<unsigned>(most_row_tiles(p, kRows))), kLaunchThreads, 0, s>>>(p);
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
  const unsigned tiles = place_tiles(p, kManyCols);
  many_rows<E><<<dim3(tiles, static_cast<unsigned>(most_row_tiles(p, kManyRows))), kLaunchThreads, 0, s>>>(p);
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
