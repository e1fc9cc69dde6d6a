// Products with weight matrices, plain and grouped by expert.
// T rows (tokens), K inputs, N outputs; R rows sorted by expert, E experts: expert e owns rows
// [offsets_E1[e], offsets_E1[e + 1]) (i32, E + 1 values); rows from offsets_E1[E] on are not touched.
// x, y, dx, dy f32|bf16 in any mix, rows may be strided; products are summed in float32.
//
// With a matrix of format fp8_128 the product follows DeepSeek-V3's recipe (specification 5): x is quantised in
// 1 x 128 tiles with power-of-two scales, dy in 1 x 128 tiles; every 128 elements of the contraction the partial sum is
// scaled by both scales and added in float32; the weight gradient re-tiles x and dy to 128 tokens x 1 channel.
#pragma once
#include "base/stream.h"
#include "ops/matrix.h"

namespace sluice {

enum class Out : uint8_t { set, add };

/// y_TN (=|+=) x_TK w_NK'.
void linear_forward(Stream& s, Tensor y, const Tensor& x, const Matrix& w, Out out = Out::set);
/// dx_TK (=|+=) dy_TN w_NK.
void linear_backward_input(Stream& s, Tensor dx, const Tensor& dy, const Matrix& w, Out out = Out::set);
/// dw_NK (=|+=) dy_TN' x_TK. dw is f32; `format` is that of the weight: fp8_128 selects the FP8 recipe.
void linear_backward_weight(Stream& s, const Matrix& dw, const Tensor& dy, const Tensor& x, Format format,
                            Out out = Out::add);

/// The three products with the matrix of each row's expert. Of an expert without rows the gradient is 0.
void grouped_linear_forward(Stream& s, Tensor y, const Tensor& x, const Tensor& offsets, ExpertBank w,
                            Out out = Out::set);
void grouped_linear_backward_input(Stream& s, Tensor dx, const Tensor& dy, const Tensor& offsets, ExpertBank w,
                                   Out out = Out::set);
void grouped_linear_backward_weight(Stream& s, ExpertBank dw, const Tensor& dy, const Tensor& x, const Tensor& offsets,
                                    Format format, Out out = Out::add);

namespace cpu {
decltype(sluice::linear_forward) linear_forward;
decltype(sluice::linear_backward_input) linear_backward_input;
decltype(sluice::linear_backward_weight) linear_backward_weight;
decltype(sluice::grouped_linear_forward) grouped_linear_forward;
decltype(sluice::grouped_linear_backward_input) grouped_linear_backward_input;
decltype(sluice::grouped_linear_backward_weight) grouped_linear_backward_weight;
}  // namespace cpu
namespace cuda {
decltype(sluice::linear_forward) linear_forward;
decltype(sluice::linear_backward_input) linear_backward_input;
decltype(sluice::linear_backward_weight) linear_backward_weight;
decltype(sluice::grouped_linear_forward) grouped_linear_forward;
decltype(sluice::grouped_linear_backward_input) grouped_linear_backward_input;
decltype(sluice::grouped_linear_backward_weight) grouped_linear_backward_weight;
}  // namespace cuda

}  // namespace sluice
