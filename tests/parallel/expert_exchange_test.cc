// Rows of tokens reach their experts on other ranks and come back.
#include "base/rng.h"
#include "ops/moe.h"
#include "parallel/expert_exchange.h"
#include "world.h"

namespace sluice::test {
namespace {

constexpr int64_t kPerRank = 3, D = 5;

/// Rows by expert of a rank; some experts get none, and of rank 1 none gets any.
std::vector<int32_t> offsets_of(int rank, int64_t experts) {
  std::vector<int32_t> offset{0};
  for (int64_t e = 0; e < experts; ++e)
    offset.push_back(offset.back() + (rank == 1 ? 0 : static_cast<int32_t>((3 * rank + 5 * e) % 4)));
  return offset;
}

/// What row `i` for expert `e` from `rank` has in column c.
float value(int rank, int64_t e, int64_t i, int64_t c) {
  return static_cast<float>(((rank * 50 + e) * 50 + i) * 10 + c);
}

TEST(ExpertExchange, RowsGoToTheirExpertsAndBack) {
  Communicator& ranks = world();
  const int64_t E = kPerRank * ranks.size();
  Stream s(1);
  Arena a(1 << 20);
  ExpertExchange exchange(ranks, E);
  EXPECT_EQ(exchange.first_expert(), kPerRank * ranks.rank());
  std::vector<int32_t> offset = offsets_of(ranks.rank(), E);
  const Tensor x_RD = a.f32(offset.back(), D), back_RD = a.f32(offset.back(), D);
  for (int64_t e = 0; e < E; ++e)
    for (int64_t r = offset[static_cast<size_t>(e)]; r < offset[static_cast<size_t>(e) + 1]; ++r)
      for (int64_t c = 0; c < D; ++c)
        *static_cast<float*>(x_RD.at(r, c)) = value(ranks.rank(), e, r - offset[static_cast<size_t>(e)], c);
  const ExchangePlan plan = exchange.plan(s, a, Tensor(offset.data(), DType::i32, {E + 1}), offset.back());
  const Tensor x_LD = exchange.dispatch(s, a, plan, x_RD);
  int64_t row = 0;
  for (int64_t e = 0; e < kPerRank; ++e) {
    EXPECT_EQ(plan.offsets.ptr<int32_t>()[e], row);
    for (int from = 0; from < ranks.size(); ++from) {
      const std::vector<int32_t> theirs = offsets_of(from, E);
      const size_t expert = static_cast<size_t>(exchange.first_expert() + e);
      for (int64_t i = 0; i < theirs[expert + 1] - theirs[expert]; ++i, ++row)
        for (int64_t c = 0; c < D; ++c)
          ASSERT_EQ(*static_cast<float*>(x_LD.at(row, c)), value(from, static_cast<int64_t>(expert), i, c));
    }
  }
  EXPECT_EQ(plan.rows(), row);
  for (int64_t i = 0; i < x_LD.size(); ++i) x_LD.f32()[i] += 0.5f;
  exchange.combine(s, a, plan, back_RD, x_LD);
  for (int64_t i = 0; i < x_RD.size(); ++i) ASSERT_EQ(back_RD.f32()[i], x_RD.f32()[i] + 0.5f) << i;
}

}  // namespace
}  // namespace sluice::test
