// Tiles of the FP8 recipe as float32: a quantised tile holds the values of its E4M3 codes, unscaled. They are exact in
// float32 and so are their products, so a float32 matrix product of two such tiles is a float32 sum of exact products
// (specification 5.3). Nothing here allocates or runs on other threads.
#pragma once
#include <cstdint>

#include "base/tensor.h"

namespace sluice::cpu {

/// Elements along one side of a quantisation group (specification 5.2).
constexpr int64_t kFp8Group = 128;

/// rows x cols float32 values in scratch memory, rows `ld` apart.
struct Fp8Tile {
  float* data;
  int64_t rows, cols, ld;
  float* row(int64_t i) const { return data + i * ld; }
};

/// t = x[row .. row + t.rows, col .. col + t.cols]; x f32|bf16.
void fp8_load(const Fp8Tile& t, const Tensor& x, int64_t row, int64_t col);
/// The same region of y (f32|bf16) = t, or y + t in float32, rounded once.
void fp8_store(const Tensor& y, int64_t row, int64_t col, const Fp8Tile& t, bool add);

/// Replaces t by its code values, one scale for the whole tile, which is returned.
float fp8_quantize_block(const Fp8Tile& t, bool power_of_two);
/// The same with one scale per row: scale[i * stride].
void fp8_quantize_rows(const Fp8Tile& t, float* scale, int64_t stride, bool power_of_two);
/// The same with one scale per column: scale[j].
void fp8_quantize_columns(const Fp8Tile& t, float* scale, bool power_of_two);

/// codes[i * ld + j] = the E4M3 code of t's code value (i, j).
void fp8_pack(uint8_t* codes, int64_t ld, const Fp8Tile& t);
/// t = the code values of codes[i * ld + j].
void fp8_unpack(const Fp8Tile& t, const uint8_t* codes, int64_t ld);

/// t(i, j) *= scale[i * stride]: the values of a tile quantised by rows (stride 0: by one scale).
void fp8_scale_rows(const Fp8Tile& t, const float* scale, int64_t stride);
/// sum(i, j) += partial(i, j) * (row_scale[i] * column_scale[j]) in float32.
void fp8_promote(const Fp8Tile& sum, const Fp8Tile& partial, const float* row_scale, const float* column_scale);

}  // namespace sluice::cpu
