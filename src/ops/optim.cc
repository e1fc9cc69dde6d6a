#include "ops/optim.h"

#include "ops/dispatch.h"

namespace sluice {

void adamw_step(Stream& s, Tensor w, Tensor m, Tensor v, const Tensor& g, const AdamW& config) {
  check(w.dtype == DType::f32 && same(w, g) && same(m, v) && m.size() == w.size() && w.packed() && g.packed() &&
            m.packed() && v.packed(),
        "adamw_step: expected packed w, g f32 and m, v of one dtype");
  dispatch<cpu::adamw_step, cuda::adamw_step>(s, w, m, v, g, config);
}

void sum_squares(Stream& s, Tensor sum_1, const Tensor& x) {
  check(sum_1.dtype == DType::f64 && x.dtype == DType::f32 && x.packed(),
        "sum_squares: expected f64 sum, packed f32 x");
  dispatch<cpu::sum_squares, cuda::sum_squares>(s, sum_1, x);
}

void ema_update(Stream& s, Tensor average, const Tensor& w, float decay) {
  check(average.dtype == DType::f32 && same(average, w) && average.packed() && w.packed(), "ema_update: expected f32");
  dispatch<cpu::ema_update, cuda::ema_update>(s, average, w, decay);
}

}  // namespace sluice
