#include "model/gate_up.h"

namespace sluice {
namespace {

/// Every expert's two matrices as one; empty where they do not lie so.
std::vector<Matrix> stacked_bank(ExpertBank gate, ExpertBank up) {
  std::vector<Matrix> bank;
  for (size_t e = 0; e < gate.size(); ++e) {
    bank.push_back(stacked(gate[e], up[e]));
    if (!bank.back()) return {};
  }
  return bank;
}

}  // namespace

void gate_up_forward(Stream& s, Tensor gu_T2F, const Tensor& x_TD, const Matrix& gate, const Matrix& up) {
  if (const Matrix both = stacked(gate, up)) return linear_forward(s, gu_T2F, x_TD, both);
  linear_forward(s, gate_of(gu_T2F), x_TD, gate);
  linear_forward(s, up_of(gu_T2F), x_TD, up);
}

void gate_up_backward_input(Stream& s, Tensor dx_TD, const Tensor& dgu_T2F, const Matrix& gate, const Matrix& up) {
  if (const Matrix both = stacked(gate, up)) return linear_backward_input(s, dx_TD, dgu_T2F, both);
  linear_backward_input(s, dx_TD, gate_of(dgu_T2F), gate);
  linear_backward_input(s, dx_TD, up_of(dgu_T2F), up, Out::add);
}

void gate_up_backward_weight(Stream& s, const Matrix& dgate, const Matrix& dup, const Tensor& dgu_T2F,
                             const Tensor& x_TD, Format format, Out out) {
  if (const Matrix both = stacked(dgate, dup)) return linear_backward_weight(s, both, dgu_T2F, x_TD, format, out);
  linear_backward_weight(s, dgate, gate_of(dgu_T2F), x_TD, format, out);
  linear_backward_weight(s, dup, up_of(dgu_T2F), x_TD, format, out);
}

void grouped_gate_up_forward(Stream& s, Tensor gu_L2F, const Tensor& x_LD, const Tensor& offsets, ExpertBank gate,
                             ExpertBank up) {
  const std::vector<Matrix> both = stacked_bank(gate, up);
  if (!both.empty()) return grouped_linear_forward(s, gu_L2F, x_LD, offsets, both);
  grouped_linear_forward(s, gate_of(gu_L2F), x_LD, offsets, gate);
  grouped_linear_forward(s, up_of(gu_L2F), x_LD, offsets, up);
}

void grouped_gate_up_backward_input(Stream& s, Tensor dx_LD, const Tensor& dgu_L2F, const Tensor& offsets,
                                    ExpertBank gate, ExpertBank up) {
  const std::vector<Matrix> both = stacked_bank(gate, up);
  if (!both.empty()) return grouped_linear_backward_input(s, dx_LD, dgu_L2F, offsets, both);
  grouped_linear_backward_input(s, dx_LD, gate_of(dgu_L2F), offsets, gate);
  grouped_linear_backward_input(s, dx_LD, up_of(dgu_L2F), offsets, up, Out::add);
}

void grouped_gate_up_backward_weight(Stream& s, const std::pair<ExpertBank, ExpertBank>& grad, const Tensor& dgu_L2F,
                                     const Tensor& x_LD, const Tensor& offsets, Format format, Out out) {
  const std::vector<Matrix> both = stacked_bank(grad.first, grad.second);
  if (!both.empty()) return grouped_linear_backward_weight(s, both, dgu_L2F, x_LD, offsets, format, out);
  grouped_linear_backward_weight(s, grad.first, gate_of(dgu_L2F), x_LD, offsets, format, out);
  grouped_linear_backward_weight(s, grad.second, up_of(dgu_L2F), x_LD, offsets, format, out);
}

}  // namespace sluice
