// The first two products of SwiGLU layers: gate and up meet the same rows. Where the matrices lie one after the other
// (allocate_all()) they are one product; gu and its gradient have the columns of gate, then those of up.
#pragma once
#include "model/weights.h"
#include "ops/linear.h"

namespace sluice {

/// The columns of gate and of up.
inline Tensor gate_of(const Tensor& gu) { return gu.slice_cols(0, gu.cols() / 2); }
inline Tensor up_of(const Tensor& gu) { return gu.slice_cols(gu.cols() / 2, gu.cols() / 2); }

/// gu = x [gate; up]'.
void gate_up_forward(Stream& s, Tensor gu_T2F, const Tensor& x_TD, const Matrix& gate, const Matrix& up);
/// dx = dgu [gate; up].
void gate_up_backward_input(Stream& s, Tensor dx_TD, const Tensor& dgu_T2F, const Matrix& gate, const Matrix& up);
/// [dgate; dup] (=|+=) dgu' x, both f32; `format` is that of the weights.
void gate_up_backward_weight(Stream& s, const Matrix& dgate, const Matrix& dup, const Tensor& dgu_T2F,
                             const Tensor& x_TD, Format format, Out out);

/// The same with the matrices of each row's expert.
void grouped_gate_up_forward(Stream& s, Tensor gu_L2F, const Tensor& x_LD, const Tensor& offsets, ExpertBank gate,
                             ExpertBank up);
void grouped_gate_up_backward_input(Stream& s, Tensor dx_LD, const Tensor& dgu_L2F, const Tensor& offsets,
                                    ExpertBank gate, ExpertBank up);
/// `grad`: gate, then up.
void grouped_gate_up_backward_weight(Stream& s, const std::pair<ExpertBank, ExpertBank>& grad, const Tensor& dgu_L2F,
                                     const Tensor& x_LD, const Tensor& offsets, Format format, Out out);

}  // namespace sluice
