#include "ops/quant.h"

#include "ops/cuda/fp8.cuh"
#include "ops/cuda/quant.h"

namespace sluice::cuda {
namespace {

// A warp takes one group of a row, four neighbouring elements a lane.
constexpr int kWarps = 8, kPerLane = 4;

template <class T>
__global__ void quantize_row_groups(Codes out, Rows<const T> x, int64_t n, int64_t K, bool power_of_two) {
  const int64_t scale_cols = (K + kGroup - 1) / kGroup;
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (group >= n * scale_cols) return;
  const int64_t row = group / scale_cols, col = group % scale_cols * kGroup + threadIdx.x % 32 * kPerLane;
  float v[kPerLane], amax = 0;
  for (int i = 0; i < kPerLane; ++i) {
    v[i] = col + i < K ? load(x[row] + col + i) : 0.0f;
    amax = larger_magnitude(amax, v[i]);
  }
  const float scale = group_scale(warp_max(amax), power_of_two);
  for (int i = 0; i < kPerLane; ++i)
    if (col + i < K) out.code[row * K + col + i] = encode(v[i] / scale);
  if (threadIdx.x % 32 == 0) out.scale[group] = scale;
}

constexpr int kColumns = 32, kRowLanes = 8;

/// First and last row of the tile with scales in row `tile` of the scales, and whether there is one.
struct TileRows {
  int64_t begin, end;
};
__device__ TileRows tile_rows(int64_t tile, const int32_t* offsets_E1, int64_t E, int64_t n) {
  if (!offsets_E1) return {tile * kGroup, min((tile + 1) * kGroup, n)};
  for (int64_t e = 0; e < E; ++e) {
    const int64_t first = offsets_E1[e] / kGroup + e, begin = offsets_E1[e] + (tile - first) * kGroup;
    if (tile >= first && begin < offsets_E1[e + 1])
      return {begin, min(begin + kGroup, static_cast<int64_t>(offsets_E1[e + 1]))};
  }
  return {0, 0};
}

// A block takes 32 columns of a tile.
template <class Source>
__global__ void quantize_column_groups(Codes out, Source x, int64_t n, int64_t K, const int32_t* offsets_E1, int64_t E,
                                       bool power_of_two) {
  __shared__ float part[kRowLanes][kColumns];
  const TileRows tile = tile_rows(blockIdx.y, offsets_E1, E, n);
  const int64_t col = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  if (tile.begin >= tile.end) return;
  float amax = 0;
  if (col < K)
    for (int64_t r = tile.begin + threadIdx.y; r < tile.end; r += kRowLanes) amax = larger_magnitude(amax, x(r, col));
  part[threadIdx.y][threadIdx.x] = amax;
  __syncthreads();
  if (col >= K) return;
  for (int l = 0; l < kRowLanes; ++l) amax = fmaxf(amax, part[l][threadIdx.x]);
  const float scale = group_scale(amax, power_of_two);
  for (int64_t r = tile.begin + threadIdx.y; r < tile.end; r += kRowLanes)
    out.code[r * K + col] = encode(x(r, col) / scale);
  if (threadIdx.y == 0) out.scale[blockIdx.y * K + col] = scale;
}

// A block takes one 128 x 128 block, a thread every other element of a row.
template <class T>
__global__ void quantize_blocks(Codes out, Rows<const T> x, int64_t N, int64_t K, bool power_of_two) {
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kGroup, col = static_cast<int64_t>(blockIdx.x) * kGroup;
  const int64_t row_end = min(row + kGroup, N), c = col + threadIdx.x % kGroup;
  float amax = 0;
  if (c < K)
    for (int64_t r = row + threadIdx.x / kGroup; r < row_end; r += blockDim.x / kGroup)
      amax = larger_magnitude(amax, load(x[r] + c));
  const float scale = group_scale(block_max(amax), power_of_two);
  if (c < K)
    for (int64_t r = row + threadIdx.x / kGroup; r < row_end; r += blockDim.x / kGroup)
      out.code[r * K + c] = encode(load(x[r] + c) / scale);
  if (threadIdx.x == 0) out.scale[blockIdx.y * static_cast<int64_t>(gridDim.x) + blockIdx.x] = scale;
}

template <class T>
__global__ void dequantize_rows(Rows<T> x, const uint8_t* code, const float* scale, int64_t n, int64_t K) {
  const int64_t row = launch_row();
  if (row >= n) return;
  const float* row_scale = scale + row / kGroup * ((K + kGroup - 1) / kGroup);
  for (int64_t i = threadIdx.x; i < K; i += blockDim.x)
    store(x[row] + i, decode(code[row * K + i]) * row_scale[i / kGroup]);
}

void quantize_rows_any(cudaStream_t s, const Codes& out, const Tensor& x, bool power_of_two) {
  const int64_t n = x.rows(), K = x.cols();
  if (x.size() == 0) return;
  const unsigned grid = blocks(n * groups(K), kWarps);
  if (x.dtype == DType::f32)
    quantize_row_groups<<<grid, 32 * kWarps, 0, s>>>(out, rows<const float>(x), n, K, power_of_two);
  else
    quantize_row_groups<<<grid, 32 * kWarps, 0, s>>>(out, rows<const half_t>(x), n, K, power_of_two);
  check_launch("quantize_rows");
}

struct TokenTiles {
  const int32_t* offsets_E1;
  int64_t E;
};

template <class Source>
void quantize_columns_as(cudaStream_t s, const Codes& out, const Source& x, int64_t n, int64_t K, TokenTiles tiles,
                         bool power_of_two) {
  if (n == 0 || K == 0) return;
  const int64_t most = tiles.offsets_E1 ? column_scale_rows(n, tiles.E) : groups(n);
  const dim3 grid(blocks(K, kColumns), static_cast<unsigned>(most));
  quantize_column_groups<<<grid, dim3(kColumns, kRowLanes), 0, s>>>(out, x, n, K, tiles.offsets_E1, tiles.E,
                                                                    power_of_two);
  check_launch("quantize_columns");
}

void quantize_columns_any(cudaStream_t s, const Codes& out, const Tensor& x, TokenTiles tiles, bool power_of_two) {
  if (x.dtype == DType::f32)
    quantize_columns_as(s, out, Values<float>{rows<const float>(x)}, x.rows(), x.cols(), tiles, power_of_two);
  else
    quantize_columns_as(s, out, Values<half_t>{rows<const half_t>(x)}, x.rows(), x.cols(), tiles, power_of_two);
}

}  // namespace

void fp8_rows(cudaStream_t s, const Codes& out, const Tensor& x) { quantize_rows_any(s, out, x, true); }

void fp8_columns(cudaStream_t s, const Codes& out, const Tensor& x, const int32_t* offsets_E1, int64_t E) {
  quantize_columns_any(s, out, x, {offsets_E1, E}, true);
}

void fp8_columns(cudaStream_t s, const Codes& out, const Codes& x, int64_t T, int64_t K, const int32_t* offsets_E1,
                 int64_t E) {
  quantize_columns_as(s, out, CodedValues{x.code, x.scale, K, groups(K)}, T, K, {offsets_E1, E}, true);
}

void quantize_weight(Stream& s, const Matrix& w, const Tensor& x, bool power_of_two) {
  if (x.size() == 0) return;
  const dim3 grid(static_cast<unsigned>(w.scale_cols()), static_cast<unsigned>(w.scale_rows()));
  const Codes out{static_cast<uint8_t*>(w.data), w.scales};
  const cudaStream_t stream = s.queue().stream();
  constexpr unsigned kThreads = 4 * kGroup;
  if (x.dtype == DType::f32)
    quantize_blocks<<<grid, kThreads, 0, stream>>>(out, rows<const float>(x), w.rows, w.cols, power_of_two);
  else
    quantize_blocks<<<grid, kThreads, 0, stream>>>(out, rows<const half_t>(x), w.rows, w.cols, power_of_two);
  check_launch("quantize_weight");
}

void dequantize_weight(Stream& s, Tensor x, const Matrix& w) {
  if (x.size() == 0) return;
  const RowLaunch l(w.rows, w.cols);
  const uint8_t* code = static_cast<const uint8_t*>(w.data);
  const cudaStream_t stream = s.queue().stream();
  if (x.dtype == DType::f32)
    dequantize_rows<<<l.grid, l.block, 0, stream>>>(rows<float>(x), code, w.scales, w.rows, w.cols);
  else
    dequantize_rows<<<l.grid, l.block, 0, stream>>>(rows<half_t>(x), code, w.scales, w.rows, w.cols);
  check_launch("dequantize_weight");
}

void quantize_rows(Stream& s, Tensor code_TK, Tensor scale, const Tensor& x_TK, bool power_of_two) {
  quantize_rows_any(s.queue().stream(), {code_TK.ptr<uint8_t>(), scale.f32()}, x_TK, power_of_two);
}

void quantize_columns(Stream& s, Tensor code_TK, Tensor scale, const Tensor& x_TK, bool power_of_two) {
  quantize_columns_any(s.queue().stream(), {code_TK.ptr<uint8_t>(), scale.f32()}, x_TK, {nullptr, 1}, power_of_two);
}

}  // namespace sluice::cuda
