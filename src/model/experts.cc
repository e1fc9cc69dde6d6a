#include "model/experts.h"

#include "ops/swiglu.h"

namespace sluice {

void experts_hidden(Stream& s, const ExpertBanks& w, const ExpertsSaved& k) {
  grouped_linear_forward(s, k.g_LF, k.x_LD, k.offsets, w.gate);
  grouped_linear_forward(s, k.u_LF, k.x_LD, k.offsets, w.up);
  swiglu_forward(s, k.h_LF, k.g_LF, k.u_LF);
}

void experts_forward(Stream& s, Tensor y_LD, const ExpertBanks& w, const ExpertsSaved& k) {
  experts_hidden(s, w, k);
  grouped_linear_forward(s, y_LD, k.h_LF, k.offsets, w.down);
}

void experts_backward_input(Stream& s, Arena& a, Tensor dx_LD, const ExpertBanks& w, const ExpertsSaved& k) {
  const size_t mark = a.mark();
  const Tensor dh_LF = a.alloc(dx_LD.dtype, {k.g_LF.rows(), k.g_LF.cols()});
  grouped_linear_backward_input(s, dh_LF, k.dy_LD, k.offsets, w.down);          // forward: y = h Wd'
  swiglu_backward(s, k.dg_LF, k.du_LF, dh_LF, k.g_LF, k.u_LF);                  // forward: h = silu(g) u
  grouped_linear_backward_input(s, dx_LD, k.dg_LF, k.offsets, w.gate);          // forward: g = x Wg'
  grouped_linear_backward_input(s, dx_LD, k.du_LF, k.offsets, w.up, Out::add);  // forward: u = x Wu'
  a.release(mark);
}

void experts_backward_weight(Stream& s, const ExpertBanks& grad, const ExpertBanks& w, const ExpertsSaved& k) {
  grouped_linear_backward_weight(s, grad.down, k.dy_LD, k.h_LF, k.offsets, w.down[0].format);
  grouped_linear_backward_weight(s, grad.gate, k.dg_LF, k.x_LD, k.offsets, w.gate[0].format);
  grouped_linear_backward_weight(s, grad.up, k.du_LF, k.x_LD, k.offsets, w.up[0].format);
}

}  // namespace sluice
