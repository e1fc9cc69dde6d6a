// FP8 quantisation in DeepSeek-V3's groups (specification 5.2, 5.4, 5.5). In float32, for every group:
//   scale = max(amax, 1e-4) / 448, or the smallest power of two not below that;  code = E4M3(x / scale)
// to nearest, ties to even;  value = code * scale. Both kinds of scale keep |x / scale| within 448, up to
// a float32 rounding that disappears in the code.
// A NaN becomes the NaN code and does not count in amax, so it spoils no neighbour. An infinity is not hidden either:
// the scale of its group is infinite, all values of the group are then NaN.
#pragma once
#include "base/stream.h"
#include "ops/matrix.h"

namespace sluice {

/// Weights: codes and one scale per 128 x 128 block into `w` (format fp8_128) from x (N, K) f32|bf16, rows may be
/// strided. Blocks at the edges are what is left of 128.
void quantize_weight(Stream& s, const Matrix& w, const Tensor& x, bool power_of_two);
/// x (N, K) f32|bf16 = the values of `w` (format fp8_128), rounded to x's dtype.
void dequantize_weight(Stream& s, Tensor x, const Matrix& w);
/// Activations: code_TK (f8_e4m3, packed) and scale (T, ceil(K/128)) f32, packed, one per row and 128 columns, from
/// x_TK f32|bf16, rows may be strided.
void quantize_rows(Stream& s, Tensor code_TK, Tensor scale, const Tensor& x_TK, bool power_of_two);
/// x_TK f32|bf16 = the values of such codes, rounded to x's dtype; rows may be strided.
void dequantize_rows(Stream& s, Tensor x_TK, const Tensor& code_TK, const Tensor& scale);
/// Activations tiled along tokens: scale (ceil(T/128), K) f32, packed, one per column and 128 rows.
void quantize_columns(Stream& s, Tensor code_TK, Tensor scale, const Tensor& x_TK, bool power_of_two);

namespace cpu {
decltype(sluice::quantize_weight) quantize_weight;
decltype(sluice::dequantize_weight) dequantize_weight;
decltype(sluice::quantize_rows) quantize_rows;
decltype(sluice::dequantize_rows) dequantize_rows;
decltype(sluice::quantize_columns) quantize_columns;
}  // namespace cpu
namespace cuda {
decltype(sluice::quantize_weight) quantize_weight;
decltype(sluice::dequantize_weight) dequantize_weight;
decltype(sluice::quantize_rows) quantize_rows;
decltype(sluice::dequantize_rows) dequantize_rows;
decltype(sluice::quantize_columns) quantize_columns;
}  // namespace cuda

}  // namespace sluice
