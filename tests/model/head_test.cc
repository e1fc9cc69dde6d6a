// The head goes through its rows in chunks; calls with few rows each give the same.
#include "model/head.h"

#include <cmath>

#include "model/tiny_model.h"
#include "ops/elementwise.h"

namespace sluice::test {
namespace {

constexpr int64_t kRows = 1100, kDim = 8, kVocab = 13;  // two chunks of 512 and a rest

class Head : public testing::Test {
 protected:
  Head() {
    Rng rng(5);
    for (const Tensor& t : {h_TD_, head_.tensor()})
      for (int64_t i = 0; i < t.size(); ++i) t.f32()[i] = static_cast<float>(rng.normal());
    for (int64_t t = 0; t < kRows; ++t) target_T_.ptr<int32_t>()[t] = static_cast<int32_t>(rng.below(kVocab + 1)) - 1;
  }

  /// Rows [begin, begin + n) of h and targets, with new memory for the losses.
  HeadRows rows(int64_t begin, int64_t n) {
    return {h_TD_.slice_rows(begin, n), Tensor(target_T_.ptr<int32_t>() + begin, DType::i32, {n}),
            arena_.alloc(DType::f32, {n})};
  }

  Stream s_{1};
  Arena arena_{size_t{1} << 24};
  Tensor h_TD_ = arena_.f32(kRows, kDim), target_T_ = arena_.alloc(DType::i32, {kRows});
  Matrix head_ = as_matrix(arena_.f32(kVocab, kDim));
};

TEST_F(Head, ChunksAddUp) {
  const Tensor dh_TD = arena_.f32(kRows, kDim), part_dh_TD = arena_.f32(kRows, kDim);
  const Matrix grad = as_matrix(arena_.f32(kVocab, kDim)), part_grad = as_matrix(arena_.f32(kVocab, kDim));
  zero(s_, grad.tensor());
  zero(s_, part_grad.tensor());
  const Tensor argmax_T = arena_.alloc(DType::i32, {kRows}), part_argmax_T = arena_.alloc(DType::i32, {kRows});
  const HeadRows all = rows(0, kRows), all_forward = rows(0, kRows);
  head_loss_backward(s_, arena_, dh_TD, all, head_, grad, 0.5f, Out::add);
  head_loss_forward(s_, arena_, argmax_T, all_forward, head_);
  for (int64_t t = 0; t < kRows; t += 100) {
    const HeadRows part = rows(t, 100);
    head_loss_backward(s_, arena_, part_dh_TD.slice_rows(t, 100), part, head_, part_grad, 0.5f, Out::add);
    head_loss_forward(s_, arena_, Tensor(part_argmax_T.ptr<int32_t>() + t, DType::i32, {100}), part, head_);
    for (int64_t i = 0; i < 100; ++i) {
      EXPECT_FLOAT_EQ(all.loss_T.f32()[t + i], part.loss_T.f32()[i]) << t + i;
      EXPECT_EQ(all_forward.loss_T.f32()[t + i], all.loss_T.f32()[t + i]) << t + i;
      EXPECT_EQ(all.loss_T.f32()[t + i] == 0, target_T_.ptr<int32_t>()[t + i] < 0) << t + i;
    }
  }
  for (int64_t i = 0; i < dh_TD.size(); ++i) EXPECT_NEAR(dh_TD.f32()[i], part_dh_TD.f32()[i], 1e-6) << i;
  for (int64_t t = 0; t < kRows; ++t) EXPECT_EQ(argmax_T.ptr<int32_t>()[t], part_argmax_T.ptr<int32_t>()[t]) << t;
  // Sums of 1100 terms of size 1 in another order.
  for (int64_t i = 0; i < kVocab * kDim; ++i)
    EXPECT_NEAR(grad.tensor().f32()[i], part_grad.tensor().f32()[i], 1e-4) << i;
}

}  // namespace
}  // namespace sluice::test
