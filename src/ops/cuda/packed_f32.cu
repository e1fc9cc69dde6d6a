// Products with float32 weights and activations: routers, and models in float32. A warp takes a few outputs; a lane
// adds every 32nd product in ascending order of k, and the lanes are added last.
#include "ops/cuda/packed_tile.cuh"

namespace sluice::cuda {
namespace {

template <int kRows, int kCols>
__global__ __launch_bounds__(kLaunchThreads) void product(const __grid_constant__ PackedLaunch p) {
  wait_for_previous();
  RowTile t;
  if (!find_rows(t, p, kRows, static_cast<int>(blockIdx.y))) return;
  const PackedSide& side = find_side(p, static_cast<int>(blockIdx.x));
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t col = ((static_cast<int64_t>(blockIdx.x) - side.first_tile) * kLaunchWarps + warp) * kCols;
  if (col >= side.N) return;
  const float* weights = reinterpret_cast<const float*>(expert_data(side, t.expert));
  const float *w[kCols], *x[kRows];
#pragma unroll
  for (int n = 0; n < kCols; ++n) w[n] = weights + min(col + n, side.N - 1) * p.K;
#pragma unroll
  for (int m = 0; m < kRows; ++m)
    x[m] = reinterpret_cast<const float*>(source_row(p, side, t, t.begin + min(m, t.count - 1)));
  float sum[kRows][kCols] = {};
#pragma unroll 8 / (kRows > 2 ? 4 : 1)
  for (int64_t k = lane; k < p.K; k += 32) {
    float left[kRows], right[kCols];
#pragma unroll
    for (int m = 0; m < kRows; ++m) left[m] = x[m][k];
#pragma unroll
    for (int n = 0; n < kCols; ++n) right[n] = w[n][k];
#pragma unroll
    for (int m = 0; m < kRows; ++m)
#pragma unroll
      for (int n = 0; n < kCols; ++n) sum[m][n] = fmaf(left[m], right[n], sum[m][n]);
  }
#pragma unroll
  for (int m = 0; m < kRows; ++m)
#pragma unroll
    for (int n = 0; n < kCols; ++n) {
      const float total = warp_sum(sum[m][n]);
      if (lane == 0 && m < t.count && col + n < side.N) store_output(side, t, m, col + n, total);
    }
}

template <int kRows, int kCols>
void launch(cudaStream_t s, PackedLaunch p) {
  int64_t tiles = 0;
  for (int i = 0; i < p.sides; ++i) {
    p.side[i].first_tile = static_cast<int>(tiles);
    tiles += blocks(p.side[i].N, kLaunchWarps * kCols);
  }
  launch_early(s, product<kRows, kCols>, product_grid(p, tiles, kRows), kLaunchThreads, 0, p);
}

}  // namespace

void packed_f32_product(cudaStream_t s, const PackedLaunch& p) {
  const int64_t each = p.rows / p.experts;  // routers have few columns: the fewer rows, the smaller the tiles
  if (each <= 4)
    launch<1, 1>(s, p);
  else if (each <= 64)
    launch<2, 1>(s, p);
  else if (each <= 1024)
    launch<4, 2>(s, p);
  else
    launch<8, 4>(s, p);
  check_launch("packed float32 product");
}

}  // namespace sluice::cuda
