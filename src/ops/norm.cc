#include "ops/norm.h"

#include "ops/dispatch.h"

namespace sluice {
namespace {

void check_rows(const Tensor& y, const Tensor& r, const Tensor& x) {
  check(same(y, x) && r.dtype == DType::f32 && r.size() == x.rows(), "rmsnorm: expected y as x and r (T) f32");
}

}  // namespace

void rmsnorm_forward(Stream& s, Tensor y, Tensor r, const Tensor& x, const Tensor& w, float eps) {
  check_rows(y, r, x);
  check(w.size() == x.cols() && w.dtype == x.dtype, "rmsnorm_forward: expected w (D) of x's dtype");
  dispatch<cpu::rmsnorm_forward, cuda::rmsnorm_forward>(s, y, r, x, w, eps);
}

void rmsnorm_backward_input(Stream& s, Tensor dx, const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& r) {
  check_rows(dx, r, x);
  check(same(dy, x) && w.size() == x.cols() && w.dtype == x.dtype, "rmsnorm_backward_input: expected dy as x, w (D)");
  dispatch<cpu::rmsnorm_backward_input, cuda::rmsnorm_backward_input>(s, dx, dy, x, w, r);
}

void rmsnorm_backward_weight(Stream& s, Tensor dw, const Tensor& dy, const Tensor& x, const Tensor& r) {
  check_rows(dy, r, x);
  check(dw.size() == x.cols() && dw.dtype == DType::f32, "rmsnorm_backward_weight: expected dw (D) f32");
  dispatch<cpu::rmsnorm_backward_weight, cuda::rmsnorm_backward_weight>(s, dw, dy, x, r);
}

}  // namespace sluice
