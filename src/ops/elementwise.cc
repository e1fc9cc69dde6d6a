#include "ops/elementwise.h"

#include "ops/dispatch.h"

namespace sluice {
namespace {

bool equal_shape(const Tensor& a, const Tensor& b) { return a.rows() == b.rows() && a.cols() == b.cols(); }

}  // namespace

void copy(Stream& s, Tensor y, const Tensor& x) {
  check(equal_shape(y, x) && (y.dtype == DType::i32) == (x.dtype == DType::i32),
        "copy: expected equal shapes, and i32 only to i32");
  dispatch<cpu::copy, cuda::copy>(s, y, x);
}

void add(Stream& s, Tensor y, const Tensor& a, const Tensor& b) {
  check(equal_shape(y, a) && equal_shape(y, b), "add: expected equal shapes");
  dispatch<cpu::add, cuda::add>(s, y, a, b);
}

void zero(Stream& s, Tensor x) { dispatch<cpu::zero, cuda::zero>(s, x); }

}  // namespace sluice
