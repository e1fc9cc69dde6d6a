// Products with packed bf16 and FP8 weights and many rows, on Hopper's own instructions: weights are the left side, as
// they come from memory into registers, 64 columns of the output per warpgroup; 64 or 128 rows of activations are the
// right side, in shared memory, where a third warpgroup brings them, so that they may come from anywhere. Sums of 128
// of k have the bits that mma.sync gives them (packed_tensor.cu).
#include "ops/cuda/attention_wgmma.cuh"
#include "ops/cuda/packed_tile.cuh"

namespace sluice::cuda {
namespace {

using hopper::Left;
using wgmma_attention::Place;

constexpr int kWarpgroup = 128, kMultipliers = 2, kThreads = (kMultipliers + 1) * kWarpgroup;
constexpr int kWave = 64, kCols = kMultipliers * kWave, kStages = 4;
constexpr int kLine = static_cast<int>(kTileCols) * 2,
              kPieces = kLine / 16;  // 64 of k of a row; its pieces of 16 bytes
/// Lines that are on their way: loads of the last two stages begun need not have come.
constexpr int kPending = 2;
constexpr unsigned kNeighbours = 4;

template <int kRows>
struct Shared {
  uint8_t x[kStages][kRows * kLine];
  uint64_t full[kStages], empty[kStages];
};

/// A warpgroup: brings the activations of all steps.
template <int kRows>
__device__ __forceinline__ void feed(Shared<kRows>& s, const PackedLaunch& p, const PackedSide& side, const RowTile& t,
                                     int steps) {
  constexpr int kEach = kRows * kPieces / kWarpgroup;  // pieces of a thread, of rows kWarpgroup / kPieces apart
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup, piece = thread % kPieces;
  const char* from[kEach];
  uint32_t to[kEach];
  int bytes[kEach];  // 0: there is no such row
#pragma unroll
  for (int n = 0; n < kEach; ++n) {
    const int row = (n * kWarpgroup + thread) / kPieces;
    from[n] = source_row(p, side, t, t.begin + (row < t.count ? row : 0)) + piece * 16;
    to[n] = hopper::shared_address(s.x[0]) + row * kLine + (piece ^ (row & 7)) * 16;
    bytes[n] = row < t.count ? 16 : 0;
  }
  Place<kStages> place, arrived;
  const auto finish_one = [&] {
    hopper::publish_to_engines();
    hopper::arrive(&s.full[arrived.stage]);
    arrived.advance();
  };
  for (int step = 0; step < steps; ++step) {
    hopper::wait_for(&s.empty[place.stage], place.parity ^ 1);
#pragma unroll
    for (int n = 0; n < kEach; ++n)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to[n] + place.stage * kRows * kLine),
                   "l"(from[n] + step * kLine), "r"(bytes[n]));
    asm volatile("cp.async.commit_group;");
    place.advance();
    if (step < kPending) continue;
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
    finish_one();
  }
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  for (int n = min(kPending, steps); n > 0; --n) finish_one();
}

/// part (=|+=) weights (64 columns of the output) times the activations of a stage.
template <int kCount>
__device__ __forceinline__ void multiply_step(float (&part)[kCount], const Left (&left)[4], uint32_t x, bool keep) {
#pragma unroll
  for (int j = 0; j < 4; ++j) hopper::multiply_along(part, left[j], hopper::side(x + j * 32), keep || j > 0);
}

template <class E, int kRows>
__device__ __forceinline__ void multiply(Shared<kRows>& s, const PackedLaunch& p, const PackedSide& side,
                                         const RowTile& t, int tile, int steps) {
  constexpr int kSums = kRows / 2;
  const wgmma_attention::Role role;
  const int64_t col = static_cast<int64_t>(tile - side.first_tile) * kCols + role.group * kWave + role.warp * kTileRows;
  const bool has_cols = col < side.N;  // warps beyond the matrix multiply what others do, and store nothing
  const char* weights = expert_data(side, t.expert) + (has_cols ? col / kTileRows : 0) * steps * WeightTile<E>::kBytes;
  const float* scales = expert_scales(side, t.expert);
  const int groups = steps / 2;
  float sum[kSums], part[kSums];
#pragma unroll
  for (int n = 0; n < kSums; ++n) sum[n] = 0, part[n] = 0;
  Place<kStages> place;
  WeightTile<E> first, second;
  first.load(weights);
  second.load(weights + WeightTile<E>::kBytes);
  for (int group = 0; group < groups; ++group) {
    const float scale = sum_scale(side, scales, has_cols ? col : 0, group, groups);
    const char* next = weights + static_cast<int64_t>(min(group + 1, groups - 1)) * 2 * WeightTile<E>::kBytes;
    Left left[2][4];
#pragma unroll
    for (int j = 0; j < 4; ++j) first.left(left[0][j], j);
    first.load(next);
    hopper::wait_for(&s.full[place.stage], place.parity);
    uint64_t* empty_first = &s.empty[place.stage];
    hopper::pin(part);
    hopper::begin_products();
    multiply_step(part, left[0], hopper::shared_address(s.x[place.stage]), false);
    hopper::commit_products();
    place.advance();
#pragma unroll
    for (int j = 0; j < 4; ++j) second.left(left[1][j], j);
    second.load(next + WeightTile<E>::kBytes);
    hopper::wait_for(&s.full[place.stage], place.parity);
    hopper::begin_products();
    multiply_step(part, left[1], hopper::shared_address(s.x[place.stage]), true);
    hopper::commit_products();
    hopper::wait_for_products<0>();
    hopper::pin(part);
    wgmma_attention::release(empty_first, role);
    wgmma_attention::release(&s.empty[place.stage], role);
    place.advance();
#pragma unroll
    for (int n = 0; n < kSums; ++n) sum[n] = fmaf(part[n], scale, sum[n]);
  }
#pragma unroll
  for (int n = 0; n < kSums; ++n) {
    const int row = n / 4 * 8 + mma_col(n % 4);
    const int64_t out = col + mma_row(n % 4);
    if (row < t.count && out < side.N) store_output(side, t, row, out, sum[n]);
  }
}

template <class E, int kRows>
__global__ __launch_bounds__(kThreads, 1) void many_rows(const __grid_constant__ PackedLaunch p, bool rows_first) {
  extern __shared__ uint8_t memory[];
  Shared<kRows>& s = wgmma_attention::shared_memory<Shared<kRows>>(memory);
  wait_for_previous();
  RowTile t;
  const int tile = static_cast<int>(rows_first ? blockIdx.y : blockIdx.x);
  if (!find_rows(t, p, kRows, static_cast<int>(rows_first ? blockIdx.x : blockIdx.y))) return;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      hopper::init_barrier(&s.full[stage], kWarpgroup);
      hopper::init_barrier(&s.empty[stage], kMultipliers * kWarpgroup / 32);
    }
    hopper::publish_barriers();
  }
  __syncthreads();
  const PackedSide& side = find_side(p, tile);
  const int steps = static_cast<int>((p.K + kSumCols - 1) / kSumCols) * 2;
  if (threadIdx.x >= kMultipliers * kWarpgroup) {
    hopper::give_up_registers<56>();
    feed<kRows>(s, p, side, t, steps);
  } else {
    hopper::take_registers<224>();
    multiply<E, kRows>(s, p, side, t, tile, steps);
  }
}

template <class E, int kRows>
void launch(cudaStream_t s, PackedLaunch p) {
  constexpr int kBytes = static_cast<int>(sizeof(Shared<kRows>)) + wgmma_attention::kAlignment;
  check_cuda(cudaFuncSetAttribute(many_rows<E, kRows>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
             "shared memory of a product");
  dim3 grid = product_grid(p, place_tiles(p, kCols), kRows);
  // Where few tiles of rows read all weights, those that read the same ones are neighbours.
  const bool rows_first = !p.offsets_E1 && grid.y <= kNeighbours;
  if (rows_first) std::swap(grid.x, grid.y);
  launch_early(s, many_rows<E, kRows>, grid, kThreads, kBytes, p, rows_first);
}

template <class E>
void launch_any(cudaStream_t s, const PackedLaunch& p) {
  p.rows / p.experts <= 64 ? launch<E, 64>(s, p) : launch<E, 128>(s, p);
}

}  // namespace

void packed_many_rows(cudaStream_t s, const PackedLaunch& p, bool is_fp8) {
  is_fp8 ? launch_any<uint8_t>(s, p) : launch_any<half_t>(s, p);
}

}  // namespace sluice::cuda
