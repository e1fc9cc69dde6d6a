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

/// Where the codes of one tile go: rows of tokens, as the contract has them.
struct TokenRows {
  uint8_t* code;
  int64_t K;
  __device__ void store(const uint8_t (&tile)[kColumns][kGroup + 4], const TileRows& rows, int64_t col) const {
    if (col + threadIdx.x >= K) return;
    for (int64_t r = rows.begin + threadIdx.y; r < rows.end; r += kRowLanes)
      code[r * K + col + threadIdx.x] = tile[threadIdx.x][r - rows.begin];
  }
};

/// Rows of columns, every tile in full: what a product over tokens reads.
struct ColumnRows {
  uint8_t* code;
  int64_t K, tiles;
  __device__ void store(const uint8_t (&tile)[kColumns][kGroup + 4], const TileRows&, int64_t col) const {
    for (int c = static_cast<int>(threadIdx.y); c < kColumns && col + c < K; c += kRowLanes) {
      uint32_t* out = reinterpret_cast<uint32_t*>(code + (col + c) * tiles * kGroup + blockIdx.y * kGroup);
      out[threadIdx.x] = reinterpret_cast<const uint32_t*>(tile[c])[threadIdx.x];
    }
  }
};

// A block takes 32 columns of a tile.
template <class Source, class Target>
__global__ void quantize_column_groups(Target out, float* scales, Source x, int64_t n, int64_t K,
                                       const int32_t* offsets_E1, int64_t E, bool power_of_two) {
  __shared__ float part[kRowLanes][kColumns];
  __shared__ __align__(4) uint8_t tile[kColumns][kGroup + 4];
  const TileRows rows = tile_rows(blockIdx.y, offsets_E1, E, n);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kColumns, col = first + threadIdx.x;
  if (rows.begin >= rows.end) return;
  float amax = 0;
  if (col < K)
    for (int64_t r = rows.begin + threadIdx.y; r < rows.end; r += kRowLanes) amax = larger_magnitude(amax, x(r, col));
  part[threadIdx.y][threadIdx.x] = amax;
  __syncthreads();
  for (int l = 0; l < kRowLanes; ++l) amax = fmaxf(amax, part[l][threadIdx.x]);
  const float scale = group_scale(amax, power_of_two);
  for (int r = static_cast<int>(threadIdx.y); r < kGroup; r += kRowLanes)
    tile[threadIdx.x][r] = col < K && rows.begin + r < rows.end ? encode(x(rows.begin + r, col) / scale) : 0;
  if (threadIdx.y == 0 && col < K) scales[blockIdx.y * K + col] = scale;
  __syncthreads();
  out.store(tile, rows, first);
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

/// A scale for every 128 columns of `scale_rows` rows.
template <class T>
__global__ void dequantize_groups(Rows<T> x, Codes in, int64_t n, int64_t K, int64_t scale_rows) {
  const int64_t row = launch_row();
  if (row >= n) return;
  const float* row_scale = in.scale + row / scale_rows * ((K + kGroup - 1) / kGroup);
  for (int64_t i = threadIdx.x; i < K; i += blockDim.x)
    store(x[row] + i, decode(in.code[row * K + i]) * row_scale[i / kGroup]);
}

void dequantize_any(cudaStream_t s, const Tensor& x, const Codes& in, int64_t scale_rows) {
  if (x.size() == 0) return;
  const RowLaunch l(x.rows(), x.cols());
  if (x.dtype == DType::f32)
    dequantize_groups<<<l.grid, l.block, 0, s>>>(rows<float>(x), in, x.rows(), x.cols(), scale_rows);
  else
    dequantize_groups<<<l.grid, l.block, 0, s>>>(rows<half_t>(x), in, x.rows(), x.cols(), scale_rows);
  check_launch("dequantize");
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

template <class Source, class Target>
void quantize_columns_as(cudaStream_t s, const Target& out, float* scales, const Source& x, int64_t n, int64_t K,
                         TokenTiles tiles, bool power_of_two) {
  if (n == 0 || K == 0) return;
  const dim3 grid(blocks(K, kColumns), static_cast<unsigned>(column_scale_rows(n, tiles.E)));
  quantize_column_groups<<<grid, dim3(kColumns, kRowLanes), 0, s>>>(out, scales, x, n, K, tiles.offsets_E1, tiles.E,
                                                                    power_of_two);
  check_launch("quantize_columns");
}

template <class Target>
void quantize_columns_any(cudaStream_t s, const Target& out, float* scales, const Tensor& x, TokenTiles tiles,
                          bool power_of_two) {
  const int64_t n = x.rows(), K = x.cols();
  if (x.dtype == DType::f32)
    quantize_columns_as(s, out, scales, Values<float>{rows<const float>(x)}, n, K, tiles, power_of_two);
  else
    quantize_columns_as(s, out, scales, Values<half_t>{rows<const half_t>(x)}, n, K, tiles, power_of_two);
}

constexpr int kWords = kGroup / 4;

/// Four rows of four bytes become four columns.
__device__ void transpose_bytes(uint32_t (&v)[4]) {
  const uint32_t low01 = __byte_perm(v[0], v[1], 0x5140), low23 = __byte_perm(v[2], v[3], 0x5140);
  const uint32_t high01 = __byte_perm(v[0], v[1], 0x7362), high23 = __byte_perm(v[2], v[3], 0x7362);
  v[0] = __byte_perm(low01, low23, 0x5410), v[1] = __byte_perm(low01, low23, 0x7632);
  v[2] = __byte_perm(high01, high23, 0x5410), v[3] = __byte_perm(high01, high23, 0x7632);
}

// A block takes 128 x 128 codes of one matrix, a thread four rows of four at a time.
__global__ void transpose_code_blocks(uint8_t* out, int64_t ld, const __grid_constant__ Bank bank, int64_t n,
                                      int64_t cols) {
  __shared__ uint32_t tile[kGroup][kWords + 1];
  const uint8_t* in = static_cast<const uint8_t*>(bank.data[blockIdx.z]);
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kGroup, col = static_cast<int64_t>(blockIdx.x) * kGroup;
  const int x = static_cast<int>(threadIdx.x), rows_at_once = 4 * static_cast<int>(blockDim.y);
  const bool is_word = cols % 4 == 0 && reinterpret_cast<uintptr_t>(in) % 4 == 0;
  for (int y = 4 * static_cast<int>(threadIdx.y); y < kGroup; y += rows_at_once) {
    uint32_t v[4] = {};
    for (int r = 0; r < 4; ++r) {
      const int64_t at = col + 4 * x;
      const uint8_t* from = in + (row + y + r) * cols + at;
      if (row + y + r >= n || at >= cols) continue;
      if (is_word)
        v[r] = *reinterpret_cast<const uint32_t*>(from);
      else
        for (int c = 0; c < 4 && at + c < cols; ++c) v[r] |= static_cast<uint32_t>(from[c]) << 8 * c;
    }
    transpose_bytes(v);
    for (int c = 0; c < 4; ++c) tile[4 * x + c][y / 4] = v[c];
  }
  __syncthreads();
  uint8_t* to = out + blockIdx.z * cols * ld + row + 4 * x;
  for (int c = static_cast<int>(threadIdx.y); c < kGroup && col + c < cols; c += static_cast<int>(blockDim.y))
    if (row + 4 * x < ld) *reinterpret_cast<uint32_t*>(to + (col + c) * ld) = tile[c][x];
}

}  // namespace

void fp8_rows(cudaStream_t s, const Codes& out, const Tensor& x) { quantize_rows_any(s, out, x, true); }

void fp8_columns(cudaStream_t s, const Codes& out, const Tensor& x, const int32_t* offsets_E1, int64_t E) {
  const ColumnRows codes{out.code, x.cols(), column_scale_rows(x.rows(), E)};
  quantize_columns_any(s, codes, out.scale, x, {offsets_E1, E}, true);
}

void fp8_columns(cudaStream_t s, const Codes& out, const Codes& x, int64_t T, int64_t K, const int32_t* offsets_E1,
                 int64_t E) {
  const ColumnRows codes{out.code, K, column_scale_rows(T, E)};
  quantize_columns_as(s, codes, out.scale, CodedValues{x.code, x.scale, K, groups(K)}, T, K, {offsets_E1, E}, true);
}

void transpose_codes(cudaStream_t s, uint8_t* out, int64_t ld, const Bank& bank, int64_t count, int64_t rows,
                     int64_t cols) {
  check(ld % 4 == 0, "transpose_codes: rows are written four bytes at a time");
  const dim3 grid(blocks(cols, kGroup), blocks(rows, kGroup), static_cast<unsigned>(count));
  transpose_code_blocks<<<grid, dim3(kWords, 8), 0, s>>>(out, ld, bank, rows, cols);
  check_launch("transposing codes");
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
  dequantize_any(s.queue().stream(), x, {static_cast<uint8_t*>(w.data), w.scales}, kGroup);
}

void quantize_rows(Stream& s, Tensor code_TK, Tensor scale, const Tensor& x_TK, bool power_of_two) {
  quantize_rows_any(s.queue().stream(), {code_TK.ptr<uint8_t>(), scale.f32()}, x_TK, power_of_two);
}

void dequantize_rows(Stream& s, Tensor x_TK, const Tensor& code_TK, const Tensor& scale) {
  dequantize_any(s.queue().stream(), x_TK, {code_TK.ptr<uint8_t>(), scale.f32()}, 1);
}

void quantize_columns(Stream& s, Tensor code_TK, Tensor scale, const Tensor& x_TK, bool power_of_two) {
  const TokenRows codes{code_TK.ptr<uint8_t>(), x_TK.cols()};
  quantize_columns_any(s.queue().stream(), codes, scale.f32(), x_TK, {nullptr, 1}, power_of_two);
}

}  // namespace sluice::cuda
