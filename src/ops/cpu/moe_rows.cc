// Moving token rows to expert order and back (specification 3.3, 3.9).
#include <cstring>

#include "ops/moe.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/moe_rows.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {

/// out (=|+=) sum over k of weight[k] * rows[row[k]]; weights of 1 where weight is null.
template <class T>
void weighted_sum(T* out, const Tensor& rows, const int32_t* row, const float* weight, int64_t K, bool add) {
  const int64_t D = rows.cols();
  for (int64_t i = 0; i < D; i += lanes()) {
    V total = add ? load_n(out + i, D - i) : hn::Zero(F());
    for (int64_t k = 0; k < K; ++k) {
      const V v = load_n(static_cast<const T*>(rows.at(row[k])) + i, D - i);
      total = weight ? hn::MulAdd(v, hn::Set(F(), weight[k]), total) : hn::Add(total, v);
    }
    store_n(total, out + i, D - i);
  }
}

/// d_row = weight dy;  returns dy . y.
template <class T>
float scale_and_dot(T* d_row, const T* dy, const T* y, float weight, int64_t D) {
  V dot = hn::Zero(F());
  const V w = hn::Set(F(), weight);
  for (int64_t i = 0; i < D; i += lanes()) {
    const V d = load_n(dy + i, D - i);
    dot = hn::MulAdd(d, load_n(y + i, D - i), dot);
    store_n(hn::Mul(d, w), d_row + i, D - i);
  }
  return sum(dot);
}

void weighted_sum_any(Tensor out, int64_t t, const Tensor& rows, const int32_t* row, const float* weight, int64_t K,
                      bool add) {
  if (out.dtype == DType::f32)
    weighted_sum(static_cast<float*>(out.at(t)), rows, row, weight, K, add);
  else
    weighted_sum(static_cast<bf16*>(out.at(t)), rows, row, weight, K, add);
}

float scale_and_dot_any(Tensor d_rows, int64_t r, const void* dy, const Tensor& y, float weight) {
  if (y.dtype == DType::f32)
    return scale_and_dot(static_cast<float*>(d_rows.at(r)), static_cast<const float*>(dy),
                         static_cast<const float*>(y.at(r)), weight, y.cols());
  return scale_and_dot(static_cast<bf16*>(d_rows.at(r)), static_cast<const bf16*>(dy),
                       static_cast<const bf16*>(y.at(r)), weight, y.cols());
}

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice::cpu {

HWY_EXPORT(weighted_sum_any);
HWY_EXPORT(scale_and_dot_any);

namespace {
constexpr int64_t kRows = 64;
}

void moe_permute(Stream&, Tensor offsets_E1, Tensor row_of_TK, Tensor slot_of_R, const Tensor& choice_TK) {
  const int64_t E = offsets_E1.size() - 1, slots = choice_TK.size();
  int32_t* offset = offsets_E1.ptr<int32_t>();
  const int32_t* choice = choice_TK.ptr<int32_t>();
  std::fill_n(offset, E + 1, 0);
  for (int64_t i = 0; i < slots; ++i) ++offset[choice[i] + 1];
  for (int64_t e = 0; e < E; ++e) offset[e + 1] += offset[e];
  // offset[e] now begins expert e; it is moved along while the rows are dealt out and put back after.
  for (int64_t i = 0; i < slots; ++i) {
    const int32_t row = offset[choice[i]]++;
    row_of_TK.ptr<int32_t>()[i] = row;
    slot_of_R.ptr<int32_t>()[row] = static_cast<int32_t>(i);
  }
  for (int64_t e = E; e > 0; --e) offset[e] = offset[e - 1];
  offset[0] = 0;
}

void moe_count(Stream&, Tensor counts_E, const Tensor& offsets_E1) {
  const int32_t* offset = offsets_E1.ptr<int32_t>();
  for (int64_t e = 0; e < counts_E.size(); ++e) counts_E.ptr<int64_t>()[e] += offset[e + 1] - offset[e];
}

void moe_gather_forward(Stream& s, Tensor x_RD, const Tensor& x_TD, const Tensor& slot_of_R, int64_t top_k) {
  const size_t bytes = static_cast<size_t>(x_TD.cols()) * dtype_size(x_TD.dtype);
  parallel_for(s, x_RD.rows(), kRows, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) std::memcpy(x_RD.at(r), x_TD.at(slot_of_R.ptr<int32_t>()[r] / top_k), bytes);
  });
}

void moe_gather_backward(Stream& s, Tensor dx_TD, const Tensor& dx_RD, const Tensor& row_of_TK, Out out) {
  const int64_t K = row_of_TK.cols();
  parallel_for(s, dx_TD.rows(), kRows, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) HWY_DYNAMIC_DISPATCH(weighted_sum_any)
    (dx_TD, t, dx_RD, row_of_TK.ptr<int32_t>() + t * K, nullptr, K, out == Out::add);
  });
}

void moe_combine_forward(Stream& s, Tensor y_TD, const Tensor& y_RD, const Tensor& weight_TK, const Tensor& row_of_TK,
                         Out out) {
  const int64_t K = row_of_TK.cols();
  parallel_for(s, y_TD.rows(), kRows, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) HWY_DYNAMIC_DISPATCH(weighted_sum_any)
    (y_TD, t, y_RD, row_of_TK.ptr<int32_t>() + t * K, weight_TK.f32() + t * K, K, out == Out::add);
  });
}

void moe_combine_backward(Stream& s, Tensor dy_RD, Tensor dweight_TK, const Tensor& dy_TD, const Tensor& y_RD,
                          const Tensor& weight_TK, const Tensor& slot_of_R) {
  const int64_t K = weight_TK.cols();
  parallel_for(s, y_RD.rows(), kRows, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int32_t slot = slot_of_R.ptr<int32_t>()[r];
      dweight_TK.f32()[slot] =
          HWY_DYNAMIC_DISPATCH(scale_and_dot_any)(dy_RD, r, dy_TD.at(slot / K), y_RD, weight_TK.f32()[slot]);
    }
  });
}

}  // namespace sluice::cpu
#endif  // HWY_ONCE
