#include "model/experts.h"

#include "model/gate_up.h"
#include "ops/swiglu.h"

namespace sluice {

void experts_hidden(Stream& s, const ExpertBanks& w, const ExpertsSaved& k) {
  grouped_gate_up_forward(s, k.gu_L2F, k.x_LD, k.offsets, w.gate, w.up);
  swiglu_forward(s, k.h_LF, gate_of(k.gu_L2F), up_of(k.gu_L2F));
}

void experts_forward(Stream& s, Tensor y_LD, const ExpertBanks& w, const ExpertsSaved& k) {
  experts_hidden(s, w, k);
  grouped_linear_forward(s, y_LD, k.h_LF, k.offsets, w.down);
}

void experts_backward_input(Stream& s, Arena& a, Tensor dx_LD, const ExpertBanks& w, const ExpertsSaved& k) {
  const size_t mark = a.mark();
  const Tensor dh_LF = a.alloc(dx_LD.dtype, {k.gu_L2F.rows(), k.gu_L2F.cols() / 2});
  grouped_linear_backward_input(s, dh_LF, k.dy_LD, k.offsets, w.down);  // forward: y = h Wd'
  swiglu_backward(s, gate_of(k.dgu_L2F), up_of(k.dgu_L2F), dh_LF, gate_of(k.gu_L2F),
                  up_of(k.gu_L2F));                                              // forward: h = silu(g) u
  grouped_gate_up_backward_input(s, dx_LD, k.dgu_L2F, k.offsets, w.gate, w.up);  // forward: gu = x [Wg; Wu]'
  a.release(mark);
}

void experts_backward_weight(Stream& s, const ExpertBanks& grad, const ExpertBanks& w, const ExpertsSaved& k, Out out) {
  grouped_linear_backward_weight(s, grad.down, k.dy_LD, k.h_LF, k.offsets, w.down[0].format, out);
  grouped_gate_up_backward_weight(s, {grad.gate, grad.up}, k.dgu_L2F, k.x_LD, k.offsets, w.gate[0].format, out);
}

}  // namespace sluice
