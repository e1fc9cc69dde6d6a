#include "ops/attention.h"

#include "ops/dispatch.h"

namespace sluice {
namespace {

void check_inputs(const AttentionInputs& in, const AttentionShape& a) {
  const int64_t T = a.batch * a.tokens;
  check(in.q.rows() == T && in.q.cols() == a.heads * (a.nope + a.rope), "attention: expected q (T, H (nope+rope))");
  check(in.kv.rows() == T && in.kv.cols() == a.heads * (a.nope + a.value),
        "attention: expected kv (T, H (nope+value))");
  check(in.k_rope.rows() == T && in.k_rope.cols() == a.rope, "attention: expected k_rope (T, rope)");
  check(in.q.dtype == in.kv.dtype && in.q.dtype == in.k_rope.dtype, "attention: expected one dtype");
}

void check_outputs(const Tensor& o, const Tensor& lse, const AttentionShape& a) {
  const int64_t T = a.batch * a.tokens;
  check(o.rows() == T && o.cols() == a.heads * a.value, "attention: expected o (T, H value)");
  check(lse.dtype == DType::f32 && lse.size() == T * a.heads, "attention: expected lse (T, H) f32");
}

}  // namespace

void attention_forward(Stream& s, Tensor o, Tensor lse, const AttentionInputs& in, const AttentionShape& shape) {
  check_inputs(in, shape);
  check_outputs(o, lse, shape);
  check(!in.first_T || in.first_T.dtype == DType::i32, "attention: expected first_T i32");
  dispatch<cpu::attention_forward, cuda::attention_forward>(s, o, lse, in, shape);
}

void attention_backward_input(Stream& s, const AttentionInputs& grad, const Tensor& d_o, const AttentionInputs& in,
                              const Tensor& o, const Tensor& lse, const AttentionShape& shape) {
  check_inputs(in, shape);
  check_inputs(grad, shape);
  check_outputs(o, lse, shape);
  check(same(d_o, o), "attention_backward_input: expected d_o as o");
  dispatch<cpu::attention_backward_input, cuda::attention_backward_input>(s, grad, d_o, in, o, lse, shape);
}

}  // namespace sluice
