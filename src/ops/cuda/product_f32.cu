// Products of float32 and bf16 in any mix with float32 multiply-adds: for float32 models and tests, not for speed.
#include "ops/cuda/product_task.cuh"

namespace sluice::cuda {
namespace {

constexpr int kTile = 128, kDepth = 16, kThreads = 256, kSide = 8, kPitch = kTile + 4;
constexpr int kPerThread = kTile * kDepth / kThreads;

__device__ float element(const Operand& o, const void* data, int64_t at) {
  return o.is_f32 ? static_cast<const float*>(data)[at] : load(static_cast<const half_t*>(data) + at);
}

/// Row (of the output) and depth of the n-th element that a thread loads: neighbours in memory for neighbouring
/// threads.
struct Place {
  int row, k;
};
__device__ Place place(const Operand& o, int n) {
  const int at = n * kThreads + static_cast<int>(threadIdx.x);
  return o.along_k ? Place{at / kDepth, at % kDepth} : Place{at % kTile, at / kTile};
}

/// Elements of rows [row, row_end) and depths [k, k_end), 0 outside.
__device__ void fetch(float (&v)[kPerThread], const Operand& o, const void* data, int64_t row, int64_t row_end,
                      int64_t k, int64_t k_end) {
#pragma unroll
  for (int n = 0; n < kPerThread; ++n) {
    const Place at = place(o, n);
    const int64_t i = row + at.row, d = k + at.k;
    v[n] = i < row_end && d < k_end ? element(o, data, o.along_k ? i * o.ld + d : d * o.ld + i) : 0.0f;
  }
}

__device__ void put(float (*tile)[kPitch], const float (&v)[kPerThread], const Operand& o) {
#pragma unroll
  for (int n = 0; n < kPerThread; ++n) {
    const Place at = place(o, n);
    tile[at.k][at.row] = v[n];
  }
}

__global__ __launch_bounds__(kThreads) void product(const __grid_constant__ Product p) {
  __shared__ float tile_a[kDepth][kPitch], tile_b[kDepth][kPitch];
  ProductTask t;
  if (!find_task(t, p, kTile)) return;
  const void* a = p.a.data;
  const void* b = p.b.data ? p.b.data : p.bank.data[t.expert];
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kTile;
  const int x = static_cast<int>(threadIdx.x) % (kTile / kSide) * kSide;
  const int y = static_cast<int>(threadIdx.x) / (kTile / kSide) * kSide;
  float sum[kSide][kSide] = {}, next_a[kPerThread], next_b[kPerThread];
  fetch(next_a, p.a, a, t.i, t.i_end, t.k, t.k_end);
  fetch(next_b, p.b, b, j, p.N, t.k, t.k_end);
  for (int64_t k = t.k; k < t.k_end; k += kDepth) {
    put(tile_a, next_a, p.a);
    put(tile_b, next_b, p.b);
    __syncthreads();
    fetch(next_a, p.a, a, t.i, t.i_end, k + kDepth, t.k_end);
    fetch(next_b, p.b, b, j, p.N, k + kDepth, t.k_end);
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      float left[kSide], right[kSide];
#pragma unroll
      for (int n = 0; n < kSide; ++n) left[n] = tile_a[d][y + n], right[n] = tile_b[d][x + n];
#pragma unroll
      for (int m = 0; m < kSide; ++m)
#pragma unroll
        for (int n = 0; n < kSide; ++n) sum[m][n] = fmaf(left[m], right[n], sum[m][n]);
    }
    __syncthreads();
  }
  void* out = p.y ? p.y : p.bank.data[t.expert];
#pragma unroll
  for (int m = 0; m < kSide; ++m)
#pragma unroll
    for (int n = 0; n < kSide; ++n)
      if (t.i + y + m < t.i_end && j + x + n < p.N) store_output(p, out, t.i + y + m, j + x + n, sum[m][n]);
}

}  // namespace

void f32_product(cudaStream_t s, const Product& p) {
  product<<<product_grid(p, kTile, kTile), kThreads, 0, s>>>(p);
  check_launch("float32 product");
}

}  // namespace sluice::cuda
