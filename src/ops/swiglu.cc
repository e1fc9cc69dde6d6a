#include "ops/swiglu.h"

#include "ops/dispatch.h"

namespace sluice {

void swiglu_forward(Stream& s, Tensor h, const Tensor& g, const Tensor& u) {
  check(same(h, g) && same(u, g), "swiglu_forward: shapes");
  dispatch<cpu::swiglu_forward, cuda::swiglu_forward>(s, h, g, u);
}

void swiglu_backward(Stream& s, Tensor dg, Tensor du, const Tensor& dh, const Tensor& g, const Tensor& u) {
  check(same(dg, g) && same(du, g) && same(dh, g) && same(u, g), "swiglu_backward: shapes");
  dispatch<cpu::swiglu_backward, cuda::swiglu_backward>(s, dg, du, dh, g, u);
}

}  // namespace sluice
