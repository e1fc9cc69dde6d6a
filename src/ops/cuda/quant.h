// Quantisation as the FP8 products of this folder want it.
#pragma once
#include "base/cuda/queue.h"
#include "base/tensor.h"
#include "ops/cuda/product.h"

namespace sluice::cuda {

/// Codes of a (T, K) matrix and their scales.
struct Codes {
  uint8_t* code;
  float* scale;
};

/// quantize_rows (ops/quant.h) into codes (T, K) and scales (T, ceil(K/128)), powers of two.
void fp8_rows(cudaStream_t s, const Codes& out, const Tensor& x);

/// Scale rows that fp8_columns needs for T rows of E experts.
inline int64_t column_scale_rows(int64_t T, int64_t E) { return T / 128 + E; }

/// Tiles of 128 rows x 1 column that begin anew with every expert: the scales of the rows from offsets_E1[e] + 128 i on
/// are row offsets_E1[e] / 128 + e + i of `out.scale`, their codes columns 128 times that on of `out.code`
/// (K, 128 column_scale_rows(T, E)), which has tokens along its rows; the rest of an expert's last tile is zero.
/// `offsets_E1` null: one expert, all rows. Powers of two.
/// Retile: of what fp8_rows makes of the values.
enum class Retile : uint8_t { no, yes };
void fp8_columns(cudaStream_t s, const Codes& out, const Tensor& x, const int32_t* offsets_E1, int64_t E,
                 Retile retile);

/// The codes of matrices (rows, cols) transposed: one after the other, each (cols, ld); `ld` >= rows.
void transpose_codes(cudaStream_t s, uint8_t* out, int64_t ld, const Bank& bank, int64_t count, int64_t rows,
                     int64_t cols);

}  // namespace sluice::cuda
