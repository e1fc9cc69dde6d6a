#include "ops/optim.h"

#include "ops/dispatch.h"

namespace sluice {

void adamw_step(Stream& s, std::span<const AdamWTensor> tensors, const AdamW& config) {
  for (const AdamWTensor& t : tensors) {
    check(t.w.dtype == DType::f32 && same(t.w, t.g) && same(t.m, t.v) && t.m.size() == t.w.size() && t.w.packed() &&
              t.g.packed() && t.m.packed() && t.v.packed() && t.m.dtype == tensors[0].m.dtype,
          "adamw_step: expected packed w, g f32 and m, v of one dtype");
    check(!t.working || (t.working.rows == t.w.rows() && t.working.cols == t.w.cols()),
          "adamw_step: expected working as w");
  }
  dispatch<cpu::adamw_step, cuda::adamw_step>(s, tensors, config);
}

void sum_squares(Stream& s, Tensor sum_1, std::span<const Tensor> x) {
  check(sum_1.dtype == DType::f64, "sum_squares: expected an f64 sum");
  for (const Tensor& t : x) check(t.dtype == DType::f32 && t.packed(), "sum_squares: expected packed f32 x");
  dispatch<cpu::sum_squares, cuda::sum_squares>(s, sum_1, x);
}

void ema_update(Stream& s, Tensor average, const Tensor& w, float decay) {
  check(average.dtype == DType::f32 && same(average, w) && average.packed() && w.packed(), "ema_update: expected f32");
  dispatch<cpu::ema_update, cuda::ema_update>(s, average, w, decay);
}

}  // namespace sluice
