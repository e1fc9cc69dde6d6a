#include "ops/rope.h"

#include "ops/dispatch.h"

namespace sluice {
namespace {

void check_rope(const Tensor& x, const Tensor& position_T, const Tensor& table) {
  check(position_T.dtype == DType::i32 && x.rows() % position_T.size() == 0, "rope: expected T * H rows, T positions");
  check(table.dtype == DType::f32 && table.cols() == x.cols() && x.cols() % 2 == 0, "rope: expected table (P, R) f32");
}

}  // namespace

void rope_forward(Stream& s, Tensor x, const Tensor& position_T, const Tensor& table) {
  check_rope(x, position_T, table);
  dispatch<cpu::rope_forward, cuda::rope_forward>(s, x, position_T, table);
}

void rope_backward(Stream& s, Tensor dx, const Tensor& position_T, const Tensor& table) {
  check_rope(dx, position_T, table);
  dispatch<cpu::rope_backward, cuda::rope_backward>(s, dx, position_T, table);
}

}  // namespace sluice
