// Products on tensor cores (mma.sync m16n8k16, float32 sums), for matrices whose addresses and strides do not suit
// product_wgmma.cu. Tiles of 128 x 128 outputs and 32 or 64 of k; the next
// tile is loaded into registers while this one is multiplied. FP8 codes are multiplied as half precision, in which
// every E4M3 value is exact.
#include <type_traits>

#include "ops/cuda/fp8.cuh"
#include "ops/cuda/mma.cuh"
#include "ops/cuda/product_task.cuh"
#include "ops/cuda/product_wgmma.h"

namespace sluice::cuda {
namespace {

constexpr int kTile = 128, kThreads = 256;
constexpr int kChunk = 8;  // elements that are loaded at once
/// Of k in a tile. bf16: few enough registers for two blocks on a multiprocessor, which hide each other's waiting; FP8
/// has two sets of sums and room for one block.
template <class E>
constexpr int kDepth = sizeof(E) == 2 ? 32 : 64;
template <class E>
constexpr int kBlocks = sizeof(E) == 2 ? 2 : 1;
/// Chunks of a tile that a thread loads.
template <class E>
constexpr int kChunks = kTile* kDepth<E> / kChunk / kThreads;
constexpr int kPad = 8;  // of rows in shared memory, so that ldmatrix meets no bank twice
// A warp computes 64 x 32 outputs: 4 x 4 products of 16 x 8.
constexpr int kWarpRows = 64, kWarpCols = 32, kMmaRows = kWarpRows / 16, kMmaCols = kWarpCols / 8;

/// A tile in shared memory as it lies in global memory: rows of k, or rows of outputs.
template <class E, bool kAlongK>
struct Tile {
  static constexpr int kRows = kAlongK ? kTile : kDepth<E>, kCols = kAlongK ? kDepth<E> : kTile;
  static constexpr int kPitch = kCols + kPad;
  uint16_t data[kRows][kPitch];
};

/// Eight elements as they lie in memory; codes become 16-bit floats when they are put into a tile, so that nothing
/// waits for memory before it must.
template <class E>
using Chunk = std::conditional_t<sizeof(E) == 2, uint4, uint2>;

/// Up to eight elements from p on; 0 beyond `count`.
template <class E>
__device__ Chunk<E> fetch_chunk(const E* p, int64_t count, bool is_vector) {
  if (is_vector && count >= kChunk) return *reinterpret_cast<const Chunk<E>*>(p);
  constexpr int kPerWord = 4 / sizeof(E), kBits = 8 * sizeof(E);
  using Bits = std::conditional_t<sizeof(E) == 2, uint16_t, uint8_t>;
  uint32_t word[4] = {};
  const Bits* q = reinterpret_cast<const Bits*>(p);
#pragma unroll
  for (int n = 0; n < kChunk; ++n)
    if (n < count) word[n / kPerWord] |= static_cast<uint32_t>(q[n]) << (n % kPerWord * kBits);
  if constexpr (sizeof(E) == 2)
    return make_uint4(word[0], word[1], word[2], word[3]);
  else
    return make_uint2(word[0], word[1]);
}

__device__ uint4 as_floats(const uint4& chunk) { return chunk; }
__device__ uint4 as_floats(const uint2& codes) {
  const uint32_t code[2] = {codes.x, codes.y};
  uint32_t word[4];
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const auto pair = static_cast<__nv_fp8x2_storage_t>(code[n / 2] >> (n % 2 * 16) & 0xffffu);
    const __half2_raw value = __nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3);
    word[n] = static_cast<uint32_t>(value.x) | static_cast<uint32_t>(value.y) << 16;
  }
  return make_uint4(word[0], word[1], word[2], word[3]);
}

template <bool kAlongK, class E>
__device__ void fetch(Chunk<E> (&chunk)[kChunks<E>], const Operand& o, const E* data, int64_t row, int64_t row_end,
                      int64_t k, int64_t k_end) {
  constexpr int kAcross = Tile<E, kAlongK>::kCols / kChunk;
#pragma unroll
  for (int n = 0; n < kChunks<E>; ++n) {
    const int at = n * kThreads + static_cast<int>(threadIdx.x);
    const int64_t r = (kAlongK ? row : k) + at / kAcross, c = (kAlongK ? k : row) + at % kAcross * kChunk;
    const int64_t r_end = kAlongK ? row_end : k_end, c_end = kAlongK ? k_end : row_end;
    chunk[n] = r < r_end && c < c_end ? fetch_chunk(data + r * o.ld + c, c_end - c, o.is_vector) : Chunk<E>{};
  }
}

template <class E, bool kAlongK>
__device__ void put(Tile<E, kAlongK>& tile, const Chunk<E> (&chunk)[kChunks<E>]) {
  constexpr int kAcross = Tile<E, kAlongK>::kCols / kChunk;
#pragma unroll
  for (int n = 0; n < kChunks<E>; ++n) {
    const int at = n * kThreads + static_cast<int>(threadIdx.x);
    *reinterpret_cast<uint4*>(&tile.data[at / kAcross][at % kAcross * kChunk]) = as_floats(chunk[n]);
  }
}

/// Matrices for an mma from row `row` of the outputs on.
template <class E, bool kAlongK>
__device__ void load_matrices(uint32_t (&m)[4], const Tile<E, kAlongK>& tile, int row, int k) {
  if constexpr (kAlongK)
    load_along(m, tile.data[0], Tile<E, kAlongK>::kPitch, row, k);
  else
    load_across(m, tile.data[0], Tile<E, kAlongK>::kPitch, row, k);
}

template <class E>
__device__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (sizeof(E) == 2)
    multiply_bf16(c, a, b0, b1);
  else
    multiply_f16(c, a, b0, b1);
}

using Sums = float[kMmaRows][kMmaCols][4];

template <class E, bool kA, bool kB>
__device__ void multiply_tile(Sums& sum, const Tile<E, kA>& a, const Tile<E, kB>& b, int row, int col) {
#pragma unroll
  for (int k = 0; k < kDepth<E>; k += 16) {
    uint32_t left[kMmaRows][4], right[kMmaCols / 2][4];
#pragma unroll
    for (int m = 0; m < kMmaRows; ++m) load_matrices<E>(left[m], a, row + 16 * m, k);
#pragma unroll
    for (int n = 0; n < kMmaCols / 2; ++n) load_matrices<E>(right[n], b, col + 16 * n, k);
#pragma unroll
    for (int m = 0; m < kMmaRows; ++m)
#pragma unroll
      for (int n = 0; n < kMmaCols; ++n) multiply<E>(sum[m][n], left[m], right[n / 2][n % 2], right[n / 2][n % 2 + 2]);
  }
}

/// Scales of a tile in one group of k: of its rows and of its columns.
struct Scales {
  float row[kTile], col[kTile];
};

/// The scale that this thread looks after: of a row, or of a column.
__device__ float fetch_scale(const Product& p, const ProductTask& t, const float* scale_b, int64_t j, int64_t group) {
  const int n = static_cast<int>(threadIdx.x) % kTile;
  const bool is_row = threadIdx.x < kTile;
  const Operand& o = is_row ? p.a : p.b;
  const int64_t at = (is_row ? t.i : j) + n;
  if (at >= (is_row ? t.i_end : p.N)) return 0;
  return (is_row ? o.scale : scale_b)[at / o.group * o.outer + group * o.inner];
}

/// sum += part times the scales of both sides; part = 0.
__device__ void promote(Sums& sum, Sums& part, const Scales& scales, int row, int col) {
  float right[kMmaCols][2];
#pragma unroll
  for (int n = 0; n < kMmaCols; ++n)
#pragma unroll
    for (int c = 0; c < 2; ++c) right[n][c] = scales.col[col + 8 * n + mma_col(c)];
#pragma unroll
  for (int m = 0; m < kMmaRows; ++m) {
    const float left[2] = {scales.row[row + 16 * m + mma_row(0)], scales.row[row + 16 * m + mma_row(2)]};
#pragma unroll
    for (int n = 0; n < kMmaCols; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        sum[m][n][c] = fmaf(part[m][n][c], left[c / 2] * right[n][c % 2], sum[m][n][c]);
        part[m][n][c] = 0;
      }
  }
}

__device__ void store_tile(const Product& p, const ProductTask& t, const Sums& sum, int row, int64_t col) {
  void* out = p.y ? p.y : p.bank.data[t.expert];
#pragma unroll
  for (int m = 0; m < kMmaRows; ++m)
#pragma unroll
    for (int n = 0; n < kMmaCols; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int64_t i = t.i + row + 16 * m + mma_row(c), column = col + 8 * n + mma_col(c);
        if (i < t.i_end && column < p.N) store_output(p, out, i, column, sum[m][n][c]);
      }
}

template <class E, bool kA, bool kB>
__global__ __launch_bounds__(kThreads, kBlocks<E>) void product(const __grid_constant__ Product p) {
  constexpr bool kScaled = sizeof(E) == 1;
  constexpr int kStep = kDepth<E>;
  static_assert(kThreads == 2 * kTile && kGroup % kStep == 0);
  __shared__ __align__(16) Tile<E, kA> tile_a;
  __shared__ __align__(16) Tile<E, kB> tile_b;
  __shared__ Scales scales;
  ProductTask t;
  if (!find_task(t, p, kTile)) return;
  const E* a = static_cast<const E*>(p.a.data);
  const E* b = static_cast<const E*>(p.b.data ? p.b.data : p.bank.data[t.expert]);
  const float* scale_b = p.b.data ? p.b.scale : p.bank.scales[t.expert];
  const int warp = static_cast<int>(threadIdx.x) / 32, row = warp / 4 * kWarpRows, col = warp % 4 * kWarpCols;
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kTile;
  Sums sum = {}, part = {};
  Chunk<E> next_a[kChunks<E>], next_b[kChunks<E>];
  float next_scale = 0;
  fetch<kA>(next_a, p.a, a, t.i, t.i_end, t.k, t.k_end);
  fetch<kB>(next_b, p.b, b, j, p.N, t.k, t.k_end);
  if constexpr (kScaled) next_scale = fetch_scale(p, t, scale_b, j, t.group);
  for (int64_t k = t.k; k < t.k_end; k += kStep) {
    const int64_t done = k + kStep - t.k;
    put<E>(tile_a, next_a);
    put<E>(tile_b, next_b);
    if (kScaled && done % kGroup == kStep)
      (threadIdx.x < kTile ? scales.row : scales.col)[threadIdx.x % kTile] = next_scale;
    __syncthreads();
    fetch<kA>(next_a, p.a, a, t.i, t.i_end, k + kStep, t.k_end);
    fetch<kB>(next_b, p.b, b, j, p.N, k + kStep, t.k_end);
    const bool is_last = k + kStep >= t.k_end;
    if (kScaled && done % kGroup == 0 && !is_last) next_scale = fetch_scale(p, t, scale_b, j, t.group + done / kGroup);
    if constexpr (kScaled) {
      multiply_tile<E>(part, tile_a, tile_b, row, col);
      if (done % kGroup == 0 || is_last) promote(sum, part, scales, row, col);
    } else {
      multiply_tile<E>(sum, tile_a, tile_b, row, col);
    }
    __syncthreads();
  }
  store_tile(p, t, sum, row, j + col);
}

}  // namespace

void bf16_product(cudaStream_t s, const Product& p) {
  if (wgmma_bf16_product(s, p)) return;
  const dim3 grid = product_grid(p, kTile, kTile);
  if (p.a.along_k && p.b.along_k)
    product<half_t, true, true><<<grid, kThreads, 0, s>>>(p);
  else if (p.a.along_k)
    product<half_t, true, false><<<grid, kThreads, 0, s>>>(p);
  else
    product<half_t, false, false><<<grid, kThreads, 0, s>>>(p);
  check_launch("bf16 product");
}

void fp8_product(cudaStream_t s, const Product& p) {
  if (wgmma_fp8_product(s, p)) return;
  product<uint8_t, true, true><<<product_grid(p, kTile, kTile), kThreads, 0, s>>>(p);
  check_launch("FP8 product");
}

}  // namespace sluice::cuda
