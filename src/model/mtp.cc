#include "model/mtp.h"

#include "ops/elementwise.h"
#include "ops/norm.h"

namespace sluice {

void mtp_forward_begin(Stream& s, Arena& a, const Tensor& h_TD, const Tensor& e_TD, const MtpWeights& w, MtpSaved& k,
                       const PassContext& ctx) {
  const int64_t T = h_TD.rows(), D = h_TD.cols();
  const DType dtype = h_TD.dtype;
  const float eps = static_cast<float>(ctx.config->rms_norm_eps);
  k.h_TD = h_TD;
  k.e_TD = e_TD;
  k.eh_T2D = a.alloc(dtype, {T, 2 * D});
  k.x_TD = a.alloc(dtype, {T, D});
  k.y_TD = a.alloc(dtype, {T, D});
  k.z_TD = a.alloc(dtype, {T, D});
  k.h_r_T = a.alloc(DType::f32, {T});
  k.e_r_T = a.alloc(DType::f32, {T});
  k.z_r_T = a.alloc(DType::f32, {T});
  rmsnorm_forward(s, k.eh_T2D.slice_cols(0, D), k.e_r_T, k.e_TD, w.enorm.tensor(), eps);
  rmsnorm_forward(s, k.eh_T2D.slice_cols(D, D), k.h_r_T, h_TD, w.hnorm.tensor(), eps);
  linear_forward(s, k.x_TD, k.eh_T2D, w.eh_proj);
}

void mtp_forward_end(Stream& s, const MtpWeights& w, MtpSaved& k, const PassContext& ctx) {
  const float eps = static_cast<float>(ctx.config->rms_norm_eps);
  rmsnorm_forward(s, k.z_TD, k.z_r_T, k.y_TD, w.head_norm.tensor(), eps);
}

Tensor mtp_backward_begin(Stream& s, Arena& a, const MtpGradients& d, const MtpWeights& w, const MtpWeights& grad,
                          const MtpSaved& k) {
  const Tensor dy_TD = a.alloc(d.dz_TD.dtype, {d.dz_TD.rows(), d.dz_TD.cols()});
  rmsnorm_backward_input(s, dy_TD, d.dz_TD, k.y_TD, w.head_norm.tensor(), k.z_r_T);
  rmsnorm_backward_weight(s, grad.head_norm.tensor(), d.dz_TD, k.y_TD, k.z_r_T);
  if (d.dy_TD) add(s, dy_TD, dy_TD, d.dy_TD);
  return dy_TD;
}

void mtp_backward_end(Stream& s, Arena& a, const MtpGradients& d, const Tensor& dx_TD, const MtpWeights& w,
                      const MtpWeights& grad, const MtpSaved& k, Out gradients) {
  const size_t mark = a.mark();
  const int64_t T = dx_TD.rows(), D = dx_TD.cols();
  const Tensor deh_T2D = a.alloc(dx_TD.dtype, {T, 2 * D});
  linear_backward_input(s, deh_T2D, dx_TD, w.eh_proj);  // forward: x = eh We'
  linear_backward_weight(s, grad.eh_proj, dx_TD, k.eh_T2D, w.eh_proj.format, gradients);
  const Tensor de_TD = deh_T2D.slice_cols(0, D), dhn_TD = deh_T2D.slice_cols(D, D);
  rmsnorm_backward_weight(s, grad.enorm.tensor(), de_TD, k.e_TD, k.e_r_T);
  rmsnorm_backward_weight(s, grad.hnorm.tensor(), dhn_TD, k.h_TD, k.h_r_T);
  rmsnorm_backward_input(s, d.dh_TD, dhn_TD, k.h_TD, w.hnorm.tensor(), k.h_r_T);
  rmsnorm_backward_input(s, d.de_TD, de_TD, k.e_TD, w.enorm.tensor(), k.e_r_T);
  a.release(mark);
}

}  // namespace sluice
