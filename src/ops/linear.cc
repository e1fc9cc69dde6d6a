#include "ops/linear.h"

#include "ops/dispatch.h"

namespace sluice {
namespace {

bool is_float(const Tensor& t) { return t.dtype == DType::f32 || t.dtype == DType::bf16; }

/// out (T, N) and in (T, K) around w (N, K).
void check_product(const Tensor& out, const Tensor& in, int64_t N, int64_t K) {
  check(is_float(out) && is_float(in) && out.rows() == in.rows(), "linear: expected f32|bf16 tensors of equal rows");
  check(out.cols() == N && in.cols() == K, "linear: the columns do not match the matrix");
}

void check_bank(const Tensor& offsets, ExpertBank bank) {
  check(!bank.empty() && offsets.dtype == DType::i32 && offsets.size() == static_cast<int64_t>(bank.size()) + 1,
        "grouped_linear: expected offsets (E + 1) i32");
  for (const Matrix& m : bank)
    check(m.rows == bank[0].rows && m.cols == bank[0].cols && m.format == bank[0].format,
          "grouped_linear: expected equal matrices");
}

}  // namespace

void linear_forward(Stream& s, Tensor y, const Tensor& x, const Matrix& w, Out out) {
  check_product(y, x, w.rows, w.cols);
  dispatch<cpu::linear_forward, cuda::linear_forward>(s, y, x, w, out);
}

void linear_backward_input(Stream& s, Tensor dx, const Tensor& dy, const Matrix& w, Out out) {
  check_product(dx, dy, w.cols, w.rows);
  dispatch<cpu::linear_backward_input, cuda::linear_backward_input>(s, dx, dy, w, out);
}

void linear_backward_weight(Stream& s, const Matrix& dw, const Tensor& dy, const Tensor& x, Format format, Out out) {
  check_product(dy, x, dw.rows, dw.cols);
  check(dw.format == Format::f32, "linear_backward_weight: expected an f32 gradient");
  dispatch<cpu::linear_backward_weight, cuda::linear_backward_weight>(s, dw, dy, x, format, out);
}

void grouped_linear_forward(Stream& s, Tensor y, const Tensor& x, const Tensor& offsets, ExpertBank w, Out out) {
  check_bank(offsets, w);
  check_product(y, x, w[0].rows, w[0].cols);
  dispatch<cpu::grouped_linear_forward, cuda::grouped_linear_forward>(s, y, x, offsets, w, out);
}

void grouped_linear_backward_input(Stream& s, Tensor dx, const Tensor& dy, const Tensor& offsets, ExpertBank w,
                                   Out out) {
  check_bank(offsets, w);
  check_product(dx, dy, w[0].cols, w[0].rows);
  dispatch<cpu::grouped_linear_backward_input, cuda::grouped_linear_backward_input>(s, dx, dy, offsets, w, out);
}

void grouped_linear_backward_weight(Stream& s, ExpertBank dw, const Tensor& dy, const Tensor& x, const Tensor& offsets,
                                    Format format, Out out) {
  check_bank(offsets, dw);
  check_product(dy, x, dw[0].rows, dw[0].cols);
  check(dw[0].format == Format::f32, "grouped_linear_backward_weight: expected f32 gradients");
  dispatch<cpu::grouped_linear_backward_weight, cuda::grouped_linear_backward_weight>(s, dw, dy, x, offsets, format,
                                                                                      out);
}

}  // namespace sluice
