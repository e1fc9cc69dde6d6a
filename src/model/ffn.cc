#include "model/ffn.h"

#include "ops/swiglu.h"

namespace sluice {

void ffn_forward_up(Stream& s, Arena& a, const Tensor& x_TD, const FfnWeights& w, FfnSaved& k) {
  const int64_t T = x_TD.rows(), F = w.gate.rows;
  k.x_TD = x_TD;
  k.g_TF = a.alloc(x_TD.dtype, {T, F});
  k.u_TF = a.alloc(x_TD.dtype, {T, F});
  linear_forward(s, k.g_TF, x_TD, w.gate);
  linear_forward(s, k.u_TF, x_TD, w.up);
}

void ffn_forward_down(Stream& s, Arena& a, Tensor y_TD, const FfnWeights& w, FfnSaved& k, bool recompute) {
  const size_t mark = a.mark();
  const Tensor h_TF = a.alloc(y_TD.dtype, {k.g_TF.rows(), k.g_TF.cols()});
  swiglu_forward(s, h_TF, k.g_TF, k.u_TF);
  linear_forward(s, y_TD, h_TF, w.down, Out::add);
  if (recompute)
    a.release(mark);
  else
    k.h_TF = h_TF;
}

void ffn_backward_input(Stream& s, Arena& a, Tensor dx_TD, const Tensor& dy_TD, const FfnWeights& w, FfnSaved& k) {
  const int64_t T = dy_TD.rows(), F = w.gate.rows;
  k.dy_TD = dy_TD;
  k.dg_TF = a.alloc(dy_TD.dtype, {T, F});
  k.du_TF = a.alloc(dy_TD.dtype, {T, F});
  if (!k.h_TF) {
    k.h_TF = a.alloc(dy_TD.dtype, {T, F});
    swiglu_forward(s, k.h_TF, k.g_TF, k.u_TF);
  }
  const size_t mark = a.mark();
  const Tensor dh_TF = a.alloc(dy_TD.dtype, {T, F});
  linear_backward_input(s, dh_TF, dy_TD, w.down);               // forward: y = h Wd'
  swiglu_backward(s, k.dg_TF, k.du_TF, dh_TF, k.g_TF, k.u_TF);  // forward: h = silu(g) u
  linear_backward_input(s, dx_TD, k.dg_TF, w.gate);             // forward: g = x Wg'
  linear_backward_input(s, dx_TD, k.du_TF, w.up, Out::add);     // forward: u = x Wu'
  a.release(mark);
}

void ffn_backward_weight(Stream& s, const FfnWeights& grad, const FfnWeights& w, const FfnSaved& k) {
  linear_backward_weight(s, grad.down, k.dy_TD, k.h_TF, w.down.format);
  linear_backward_weight(s, grad.gate, k.dg_TF, k.x_TD, w.gate.format);
  linear_backward_weight(s, grad.up, k.du_TF, k.x_TD, w.up.format);
}

}  // namespace sluice
