// Sizes of packed matrices and rows on a GPU, which are planned with where there is none, too. The layout:
//   bf16     tiles of 16 rows x 64 columns, those of the same rows one after another; rows and columns (the latter to a
//            multiple of 128) filled up with zeros. A tile is what the 32 lanes of a warp load, 16 bytes each at a
//            time: lane (g, t) = 4 g + t has of rows g and g + 8, and of every 16 columns, those that a left side of
//            the tensor cores wants: 2 t, 2 t + 1, 2 t + 8, 2 t + 9.
//   fp8_128  the same of codes; then the scales, by 128 rows x 128 columns
//   f32      rows as they are
#pragma once
#include <cstddef>
#include <cstdint>

#include "ops/matrix.h"

namespace sluice {

constexpr int64_t kTileRows = 16, kTileCols = 64, kSumCols = 128;

/// Columns of a packed row.
constexpr int64_t gpu_packed_cols(int64_t cols) { return (cols + kSumCols - 1) / kSumCols * kSumCols; }

/// Bytes of the elements or codes alone.
constexpr size_t gpu_element_bytes(Format format, int64_t rows, int64_t cols) {
  if (format == Format::f32) return static_cast<size_t>(rows * cols) * sizeof(float);
  const int64_t elements = (rows + kTileRows - 1) / kTileRows * kTileRows * gpu_packed_cols(cols);
  return static_cast<size_t>(elements * (format == Format::fp8_128 ? 1 : 2));
}

/// With the scales.
constexpr size_t gpu_packed_bytes(Format format, int64_t rows, int64_t cols) {
  const int64_t scales = format == Format::fp8_128 ? (rows + 127) / 128 * ((cols + 127) / 128) : 0;
  return gpu_element_bytes(format, rows, cols) + static_cast<size_t>(scales) * sizeof(float);
}

/// Bytes of a row of activations in bf16.
constexpr size_t gpu_half_row_bytes(int64_t cols) { return static_cast<size_t>(gpu_packed_cols(cols)) * 2; }

}  // namespace sluice
