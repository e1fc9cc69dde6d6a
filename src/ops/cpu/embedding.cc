#include "ops/embedding.h"

#include "ops/cpu/convert.h"

namespace sluice::cpu {
namespace {

constexpr int64_t kTokens = 256, kColumns = 64;

template <class T>
void add_row(float* y, const T* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += static_cast<float>(x[i]);
}

}  // namespace

void embedding_forward(Stream& s, Tensor x, const Tensor& ids_T, const Matrix& table) {
  const Tensor rows = table.tensor();
  parallel_for(s, x.rows(), kTokens, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      convert(x.at(t), x.dtype, rows.at(ids_T.ptr<int32_t>()[t]), rows.dtype, x.cols());
  });
}

// Columns are dealt out, so that every element is summed by one thread in token order.
void embedding_backward_weight(Stream& s, const Matrix& dtable, const Tensor& dx, const Tensor& ids_T) {
  const Tensor rows = dtable.tensor();
  parallel_for(s, dx.cols(), kColumns, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = 0; t < dx.rows(); ++t) {
      float* y = static_cast<float*>(rows.at(ids_T.ptr<int32_t>()[t], begin));
      if (dx.dtype == DType::f32)
        add_row(y, static_cast<const float*>(dx.at(t, begin)), end - begin);
      else
        add_row(y, static_cast<const bf16*>(dx.at(t, begin)), end - begin);
    }
  });
}

}  // namespace sluice::cpu
