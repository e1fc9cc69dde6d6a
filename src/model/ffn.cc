#include "model/ffn.h"

#include "model/gate_up.h"
#include "ops/swiglu.h"

namespace sluice {

void ffn_forward_up(Stream& s, Arena& a, const Tensor& x_TD, const FfnWeights& w, FfnSaved& k) {
  const int64_t T = x_TD.rows(), F = w.gate.rows;
  k.x_TD = x_TD;
  k.gu_T2F = a.alloc(x_TD.dtype, {T, 2 * F});
  gate_up_forward(s, k.gu_T2F, x_TD, w.gate, w.up);
}

void ffn_forward_down(Stream& s, Arena& a, Tensor y_TD, const FfnWeights& w, FfnSaved& k, bool recompute) {
  const size_t mark = a.mark();
  const Tensor h_TF = a.alloc(y_TD.dtype, {k.gu_T2F.rows(), w.gate.rows});
  swiglu_forward(s, h_TF, gate_of(k.gu_T2F), up_of(k.gu_T2F));
  linear_forward(s, y_TD, h_TF, w.down, Out::add);
  if (recompute)
    a.release(mark);
  else
    k.h_TF = h_TF;
}

void ffn_backward_input(Stream& s, Arena& a, Tensor dx_TD, const Tensor& dy_TD, const FfnWeights& w, FfnSaved& k) {
  const int64_t T = dy_TD.rows(), F = w.gate.rows;
  k.dy_TD = dy_TD;
  k.dgu_T2F = a.alloc(dy_TD.dtype, {T, 2 * F});
  if (!k.h_TF) {
    k.h_TF = a.alloc(dy_TD.dtype, {T, F});
    swiglu_forward(s, k.h_TF, gate_of(k.gu_T2F), up_of(k.gu_T2F));
  }
  const size_t mark = a.mark();
  const Tensor dh_TF = a.alloc(dy_TD.dtype, {T, F});
  linear_backward_input(s, dh_TF, dy_TD, w.down);  // forward: y = h Wd'
  swiglu_backward(s, gate_of(k.dgu_T2F), up_of(k.dgu_T2F), dh_TF, gate_of(k.gu_T2F),
                  up_of(k.gu_T2F));                           // forward: h = silu(g) u
  gate_up_backward_input(s, dx_TD, k.dgu_T2F, w.gate, w.up);  // forward: gu = x [Wg; Wu]'
  a.release(mark);
}

void ffn_backward_weight(Stream& s, const FfnWeights& grad, const FfnWeights& w, const FfnSaved& k, Out out) {
  linear_backward_weight(s, grad.down, k.dy_TD, k.h_TF, w.down.format, out);
  gate_up_backward_weight(s, grad.gate, grad.up, k.dgu_T2F, k.x_TD, w.gate.format, out);
}

}  // namespace sluice
