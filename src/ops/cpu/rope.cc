#include "ops/rope.h"

namespace sluice::cpu {
namespace {

constexpr int64_t kTokens = 64;

// The pairs are few (R/2 is 8 to 32) and adjacent; the compiler's code is far from being a bottleneck.
template <class T>
void rotate_row(T* x, const float* cos, const float* sin, int64_t pairs, float direction) {
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = static_cast<float>(x[2 * i]), b = static_cast<float>(x[2 * i + 1]), sn = direction * sin[i];
    x[2 * i] = T(a * cos[i] - b * sn);
    x[2 * i + 1] = T(a * sn + b * cos[i]);
  }
}

void rotate(Stream& s, Tensor x, const Tensor& position_T, const Tensor& table, float direction) {
  const int64_t heads = x.rows() / position_T.size(), R = x.cols();
  parallel_for(s, position_T.size(), kTokens, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* cos = static_cast<const float*>(table.at(position_T.ptr<int32_t>()[t]));
      for (int64_t row = t * heads; row < (t + 1) * heads; ++row) {
        if (x.dtype == DType::f32)
          rotate_row(static_cast<float*>(x.at(row)), cos, cos + R / 2, R / 2, direction);
        else
          rotate_row(static_cast<bf16*>(x.at(row)), cos, cos + R / 2, R / 2, direction);
      }
    }
  });
}

}  // namespace

void rope_forward(Stream& s, Tensor x, const Tensor& position_T, const Tensor& table) {
  rotate(s, x, position_T, table, 1.0f);
}

void rope_backward(Stream& s, Tensor dx, const Tensor& position_T, const Tensor& table) {
  rotate(s, dx, position_T, table, -1.0f);
}

}  // namespace sluice::cpu
