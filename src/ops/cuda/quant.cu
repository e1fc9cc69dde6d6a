#include "ops/quant.h"

#include "ops/cuda/fp8.cuh"
#include "ops/cuda/quant.h"

namespace sluice::cuda {
namespace {

/// Eight elements from column `col` on, 0 beyond the last; kIsVector: at an address that is a multiple of 16 bytes,
/// eight or none of which exist.
template <bool kIsVector, class T>
__device__ void load_8(float (&v)[8], const T* row, int64_t col, int64_t cols) {
  if constexpr (kIsVector) {
    if (col < cols) return load_n<8>(row + col, v);
#pragma unroll
    for (float& x : v) x = 0;
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = col + j < cols ? load(row + col + j) : 0.0f;
  }
}

/// The scale of a group of a row that 16 neighbouring threads have, eight elements each. The whole warp calls.
__device__ float row_scale(const float (&v)[8], bool power_of_two) {
  float amax = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) amax = larger_magnitude(amax, v[j]);
#pragma unroll
  for (int o = 8; o > 0; o /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, o));
  return group_scale(amax, power_of_two);
}

template <bool kIsVector, class T>
__global__ void quantize_row_groups(Codes out, Rows<const T> x, int64_t n, int64_t K, bool power_of_two) {
  const int64_t row = launch_row(), scale_cols = (K + kGroup - 1) / kGroup;
  if (row >= n) return;
  for (int64_t begin = 0; begin < K; begin += blockDim.x * 8) {
    const int64_t col = begin + threadIdx.x * 8;
    float v[8];
    load_8<kIsVector>(v, x[row], col, K);
    const float scale = row_scale(v, power_of_two);
    divide(v, scale, power_of_two);
    if (col < K && threadIdx.x % 16 == 0) out.scale[row * scale_cols + col / kGroup] = scale;
    uint8_t* code = out.code + row * K + col;
    if constexpr (kIsVector) {
      if (col < K) *reinterpret_cast<uint2*>(code) = encode_8(v);
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (col + j < K) code[j] = encode(v[j]);
    }
  }
}

struct TokenTiles {
  const int32_t* offsets_E1;
  int64_t E;
};

/// First and last row of the tile of this block, which has scales in row blockIdx.y of the scales; equal where there is
/// none. All threads call.
struct TileRows {
  int64_t begin, end;
};
__device__ TileRows tile_rows(const TokenTiles& tiles, int64_t n) {
  const int64_t tile = blockIdx.y;
  if (!tiles.offsets_E1) return {tile * kGroup, min((tile + 1) * kGroup, n)};
  __shared__ int expert;
  if (threadIdx.x == 0) expert = -1;
  __syncthreads();
  const auto begin_in = [&](int64_t e) {
    const int64_t begin = tiles.offsets_E1[e];
    return begin + (tile - begin / kGroup - e) * kGroup;
  };
  for (int64_t e = threadIdx.x; e < tiles.E; e += blockDim.x)
    if (begin_in(e) >= tiles.offsets_E1[e] && begin_in(e) < tiles.offsets_E1[e + 1]) expert = static_cast<int>(e);
  __syncthreads();
  if (expert < 0) return {0, 0};
  return {begin_in(expert), min(begin_in(expert) + kGroup, static_cast<int64_t>(tiles.offsets_E1[expert + 1]))};
}

constexpr int kTileThreads = 512, kTileWarps = kTileThreads / 32, kTileRows = 4;  // rows of eight that a thread has
constexpr int kTileWords = kGroup / 4;
/// Codes of 128 columns, four rows to a word.
using CodeTile = uint32_t[kGroup][kTileWords + 1];

/// Where the codes of one tile go: rows of tokens, as the contract has them.
struct TokenRows {
  uint8_t* code;
  int64_t K;
  __device__ void store(const CodeTile& tile, const TileRows& rows, int64_t first) const {
    const int64_t c = threadIdx.x % kGroup;
    if (first + c >= K) return;
    for (int64_t r = threadIdx.x / kGroup; r < rows.end - rows.begin; r += kTileThreads / kGroup)
      code[(rows.begin + r) * K + first + c] = static_cast<uint8_t>(tile[c][r / 4] >> r % 4 * 8);
  }
};

/// Rows of columns, every tile in full: what a product over tokens reads.
struct ColumnRows {
  uint8_t* code;
  int64_t K, tiles;
  __device__ void store(const CodeTile& tile, const TileRows&, int64_t first) const {
    for (int c = static_cast<int>(threadIdx.x / 32); c < kGroup && first + c < K; c += kTileWarps) {
      uint32_t* out = reinterpret_cast<uint32_t*>(code + (first + c) * tiles * kGroup + blockIdx.y * kGroup);
      out[threadIdx.x % 32] = tile[c][threadIdx.x % 32];
    }
  }
};

// A block takes 128 columns of a tile of 128 rows, a thread eight columns of four rows. kRetile: the values are first
// rounded as codes of groups of their rows.
template <bool kIsVector, bool kRetile, class T, class Target>
__global__ __launch_bounds__(kTileThreads, 2) void quantize_column_groups(Target out, float* scales, Rows<const T> x,
                                                                          int64_t n, int64_t K, TokenTiles tiles,
                                                                          bool power_of_two) {
  __shared__ CodeTile tile;
  __shared__ float part[kTileWarps][kGroup], scale[kGroup];
  const TileRows rows = tile_rows(tiles, n);
  if (rows.begin >= rows.end) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kGroup;
  const int c = static_cast<int>(threadIdx.x) % 16 * 8, r = static_cast<int>(threadIdx.x) / 16 * kTileRows;
  float v[kTileRows][8], amax[8] = {};
#pragma unroll
  for (int i = 0; i < kTileRows; ++i) {
    load_8<kIsVector>(v[i], x[rows.begin + r + i], first + c, rows.begin + r + i < rows.end ? K : 0);
    if constexpr (kRetile) {
      const float row = row_scale(v[i], true);
      divide(v[i], row, true);
#pragma unroll
      for (float& value : v[i]) value = decode(encode(value)) * row;
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) amax[j] = larger_magnitude(amax[j], v[i][j]);
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    amax[j] = fmaxf(amax[j], __shfl_xor_sync(~0u, amax[j], 16));
    if (threadIdx.x % 32 < 16) part[threadIdx.x / 32][c + j] = amax[j];
  }
  __syncthreads();
  if (threadIdx.x < kGroup) {
    float most = 0;
    for (int w = 0; w < kTileWarps; ++w) most = fmaxf(most, part[w][threadIdx.x]);
    scale[threadIdx.x] = group_scale(most, power_of_two);
    if (first + threadIdx.x < K) scales[blockIdx.y * K + first + threadIdx.x] = scale[threadIdx.x];
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float column[kTileRows] = {v[0][j], v[1][j], v[2][j], v[3][j]};
    divide(column, scale[c + j], power_of_two);
    tile[c + j][r / 4] = encode_2(column[0], column[1]) | encode_2(column[2], column[3]) << 16;
  }
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

template <class T>
void quantize_rows_as(cudaStream_t s, const Codes& out, const Tensor& x, bool power_of_two) {
  const int64_t n = x.rows(), K = x.cols();
  const RowLaunch l(n, (K + 7) / 8);
  if (is_vector(x) && reinterpret_cast<uintptr_t>(out.code) % 8 == 0)
    quantize_row_groups<true><<<l.grid, l.block, 0, s>>>(out, rows<const T>(x), n, K, power_of_two);
  else
    quantize_row_groups<false><<<l.grid, l.block, 0, s>>>(out, rows<const T>(x), n, K, power_of_two);
}

void quantize_rows_any(cudaStream_t s, const Codes& out, const Tensor& x, bool power_of_two) {
  if (x.size() == 0) return;
  x.dtype == DType::f32 ? quantize_rows_as<float>(s, out, x, power_of_two)
                        : quantize_rows_as<half_t>(s, out, x, power_of_two);
  check_launch("quantize_rows");
}

template <bool kRetile, class T, class Target>
void quantize_columns_as(cudaStream_t s, const Target& out, float* scales, const Tensor& x, TokenTiles tiles,
                         bool power_of_two) {
  const int64_t n = x.rows(), K = x.cols();
  const dim3 grid(blocks(K, kGroup), static_cast<unsigned>(column_scale_rows(n, tiles.E)));
  if (is_vector(x))
    quantize_column_groups<true, kRetile>
        <<<grid, kTileThreads, 0, s>>>(out, scales, rows<const T>(x), n, K, tiles, power_of_two);
  else
    quantize_column_groups<false, kRetile>
        <<<grid, kTileThreads, 0, s>>>(out, scales, rows<const T>(x), n, K, tiles, power_of_two);
}

template <bool kRetile, class Target>
void quantize_columns_any(cudaStream_t s, const Target& out, float* scales, const Tensor& x, TokenTiles tiles,
                          bool power_of_two) {
  if (x.size() == 0) return;
  x.dtype == DType::f32 ? quantize_columns_as<kRetile, float>(s, out, scales, x, tiles, power_of_two)
                        : quantize_columns_as<kRetile, half_t>(s, out, scales, x, tiles, power_of_two);
  check_launch("quantize_columns");
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

void fp8_columns(cudaStream_t s, const Codes& out, const Tensor& x, const int32_t* offsets_E1, int64_t E,
                 Retile retile) {
  const ColumnRows codes{out.code, x.cols(), column_scale_rows(x.rows(), E)};
  retile == Retile::yes ? quantize_columns_any<true>(s, codes, out.scale, x, {offsets_E1, E}, true)
                        : quantize_columns_any<false>(s, codes, out.scale, x, {offsets_E1, E}, true);
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
  quantize_columns_any<false>(s.queue().stream(), codes, scale.f32(), x_TK, {nullptr, 1}, power_of_two);
}

}  // namespace sluice::cuda
