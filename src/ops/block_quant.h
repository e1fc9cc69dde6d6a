// The formats of GGUF files (ops/block_format.h) from and to float32: all but fp8_128, which is in ops/quant.h.
// Dequantisation is the formula of the format (specification 10.4) rounded once. Quantisation:
//   f32, f16, bf16   to nearest, ties to even
//   q8_0             scale = largest |x| / 127, codes to nearest, ties away from zero
//   q4_0, q5_0       the element of largest magnitude gets the lowest code, others floor(x / scale + 1/2)
//   q4_1, q5_1       from the least to the largest element, codes floor((x - min) / scale + 1/2)
//   others           a search for the scales (and minima) that leave the least sum of w_i (x_i - y_i)^2 over the block,
//                    w_i = importance_i sqrt(mean of x^2 over the block + x_i^2)
// The rounding of the first groups is that of ggml's reference quantisers, bit for bit. With an importance q4_0, q4_1,
// q5_0 and q5_1 are searched, too; q8_0 and the plain formats do not use it. A block with a value that is not finite,
// or beyond 2^28, which no block format reaches, is not hidden: it becomes NaN.
#pragma once
#include "base/stream.h"
#include "ops/block_format.h"

namespace sluice {

/// out (cols) = a row of `cols` elements, a multiple of the format's block. `row` has the alignment of the halves of
/// block formats (2 bytes), or of the elements of plain ones. On the caller's thread.
void dequantize_row(const void* row, Format format, int64_t cols, float* out);

/// `row` (row_bytes(format, cols) bytes, aligned likewise) = x (cols). `importance`: null, or `cols` finite numbers >=
/// 0, of which only ratios within a block count (the mean square of each input, say); a small part of the block's mean
/// is added to each.
void quantize_row(const float* x, Format format, int64_t cols, const float* importance, void* row);

/// y (N, K) f32, rows may be strided = the values of w (N, K).
void dequantize_blocks(Stream& s, Tensor y, const Matrix& w);

/// w (N, K) = x (N, K) f32, rows may be strided; the same `importance` (null, or K numbers) for all rows.
void quantize_blocks(Stream& s, const Matrix& w, const Tensor& x, const float* importance);

namespace cpu {
decltype(sluice::dequantize_row) dequantize_row;
decltype(sluice::quantize_row) quantize_row;
decltype(sluice::dequantize_blocks) dequantize_blocks;
decltype(sluice::quantize_blocks) quantize_blocks;
}  // namespace cpu

}  // namespace sluice
