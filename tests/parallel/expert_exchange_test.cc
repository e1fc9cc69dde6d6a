// Rows of tokens reach their experts on other ranks and come back.
#include <cmath>

#include "base/rng.h"
#include "ops/moe.h"
#include "parallel/expert_exchange.h"
#include "world.h"

namespace sluice::test {
namespace {

constexpr int64_t kPerRank = 3, D = 200;

/// Rows by expert of a rank; some experts get none, and of rank 1 none gets any.
std::vector<int32_t> offsets_of(int rank, int64_t experts) {
  std::vector<int32_t> offset{0};
  for (int64_t e = 0; e < experts; ++e)
    offset.push_back(offset.back() + (rank == 1 ? 0 : static_cast<int32_t>((3 * rank + 5 * e) % 4)));
  return offset;
}

/// What row `i` for expert `e` from `rank` has in column c.
float value(int rank, int64_t e, int64_t i, int64_t c) {
  return static_cast<float>(Rng(static_cast<uint64_t>(((rank * 50 + e) * 50 + i) * 1000 + c)).normal());
}

/// Rows of this rank, and what comes of them in rounds of `options.capacity`.
class Rows {
 public:
  explicit Rows(const ExchangeOptions& options) : exchange(world(), kPerRank * world().size(), options) {
    const int64_t E = kPerRank * world().size();
    offset = offsets_of(world().rank(), E);
    x_RD = arena.f32(offset.back(), D);
    y_RD = arena.f32(offset.back(), D);
    for (int64_t e = 0; e < E; ++e)
      for (int64_t r = offset[static_cast<size_t>(e)]; r < offset[static_cast<size_t>(e) + 1]; ++r)
        for (int64_t c = 0; c < D; ++c)
          *static_cast<float*>(x_RD.at(r, c)) = value(world().rank(), e, r - offset[static_cast<size_t>(e)], c);
    exchange.begin_plan(s, plan, Tensor(offset.data(), DType::i32, {E + 1}));
    exchange.end_plan(s, arena, plan, offset.back());
  }
  /// fn(round, x_LD) for each; what it leaves in x_LD travels back.
  template <class Fn>
  void each_round(Fn&& fn) {
    for (ExchangeRound& round : plan.rounds) {
      const size_t mark = arena.mark();
      if (plan.is_in_rounds()) exchange.prepare(s, arena, round);
      const Tensor x_LD = arena.f32(round.rows(), D);
      exchange.end_dispatch(s, round, exchange.begin_dispatch(s, arena, round, x_RD), x_LD);
      fn(round, x_LD);
      exchange.end_combine(s, round, exchange.begin_combine(s, arena, round, y_RD, x_LD), y_RD);
      arena.release(mark);
    }
  }

  Stream s{1};
  Arena arena{1 << 20};
  ExpertExchange exchange;
  ExchangePlan plan;
  std::vector<int32_t> offset;
  Tensor x_RD, y_RD;
};

/// What reaches this rank's expert e, in order.
std::vector<float> expected_rows(int64_t e) {
  std::vector<float> rows;
  for (int from = 0; from < world().size(); ++from) {
    const std::vector<int32_t> theirs = offsets_of(from, kPerRank * world().size());
    for (int64_t i = 0; i < theirs[static_cast<size_t>(e) + 1] - theirs[static_cast<size_t>(e)]; ++i)
      for (int64_t c = 0; c < D; ++c) rows.push_back(value(from, e, i, c));
  }
  return rows;
}

// The rows of this rank's experts in the order of experts, of one in that of the ranks; and each finds its way back.
void expect_there_and_back(double capacity, bool in_rounds) {
  Rows rows({false, false, capacity});
  EXPECT_EQ(rows.exchange.first_expert(), kPerRank * world().rank());
  EXPECT_EQ(rows.plan.is_in_rounds(), in_rounds);
  std::vector<std::vector<float>> arrived(kPerRank);
  rows.each_round([&](const ExchangeRound& round, const Tensor& x_LD) {
    const int32_t* offsets = round.offsets.ptr<int32_t>();
    EXPECT_EQ(offsets[0], 0);
    EXPECT_EQ(offsets[kPerRank], round.rows());
    for (int64_t e = 0; e < kPerRank; ++e)
      arrived[static_cast<size_t>(e)].insert(arrived[static_cast<size_t>(e)].end(), x_LD.f32() + offsets[e] * D,
                                             x_LD.f32() + offsets[e + 1] * D);
    for (int64_t i = 0; i < x_LD.size(); ++i) x_LD.f32()[i] += 0.5f;
  });
  for (int64_t e = 0; e < kPerRank; ++e)
    EXPECT_EQ(arrived[static_cast<size_t>(e)], expected_rows(rows.exchange.first_expert() + e)) << e;
  for (int64_t i = 0; i < rows.x_RD.size(); ++i) ASSERT_EQ(rows.y_RD.f32()[i], rows.x_RD.f32()[i] + 0.5f) << i;
}

TEST(ExpertExchange, RowsGoToTheirExpertsAndBack) { expect_there_and_back(100, false); }

TEST(ExpertExchange, MoreRowsThanARankTakesComeInRounds) {
  for (const double capacity : {0.5, 0.2, 1e-6}) expect_there_and_back(capacity, true);
}

TEST(ExpertExchange, NoRoundIsLargerThanTheCapacity) {
  Rows rows({false, false, 0.3});
  int64_t all = rows.offset.back();
  world().all_reduce(Tensor(&all, DType::i64, {1})).wait();
  const int64_t share = (all + world().size() - 1) / world().size();
  rows.each_round([&](const ExchangeRound& round, const Tensor&) {
    EXPECT_LE(round.rows(), static_cast<int64_t>(std::ceil(0.3 * static_cast<double>(share))));
  });
}

TEST(ExpertExchange, FewerBitsAreNearlyTheSame) {
  Rows rows({true, true, 100});
  rows.each_round([&](const ExchangeRound& round, const Tensor& x_LD) {
    const int32_t* offsets = round.offsets.ptr<int32_t>();
    for (int64_t e = 0; e < kPerRank; ++e) {
      const std::vector<float> expected = expected_rows(rows.exchange.first_expert() + e);
      for (int64_t l = offsets[e]; l < offsets[e + 1]; ++l) {
        double error = 0, norm = 0;
        for (int64_t c = 0; c < D; ++c) {
          const double want = expected[static_cast<size_t>((l - offsets[e]) * D + c)];
          error += std::pow(x_LD.f32()[l * D + c] - want, 2), norm += want * want;
        }
        EXPECT_LE(std::sqrt(error), 4e-2 * std::sqrt(norm));
      }
    }
  });
  for (int64_t i = 0; i < rows.x_RD.size(); ++i)
    EXPECT_NEAR(rows.y_RD.f32()[i], rows.x_RD.f32()[i], 0.07 * std::abs(rows.x_RD.f32()[i]) + 1e-6) << i;
}

}  // namespace
}  // namespace sluice::test
