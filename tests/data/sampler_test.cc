#include "data/sampler.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/rng.h"
#include "test_data.h"

namespace sluice {
namespace {

std::vector<SamplerSource> one(std::shared_ptr<const TokenSet> set) { return {{TokenRange(std::move(set)), 0}}; }

/// First token of every row: where the window begins, for counting_set().
std::vector<int32_t> starts(const Batch& batch) {
  std::vector<int32_t> out;
  for (int64_t row = 0; row < batch.rows; ++row) out.push_back(batch.ids[static_cast<size_t>(row * batch.cols)]);
  return out;
}

TEST(Sampler, EveryWindowOncePerEpoch) {
  for (const int64_t tokens : {9, 10, 17, 41, 800, 1001, 4096}) {
    Sampler sampler(one(counting_set(tokens)), {.seq_len = 8, .seed = 7, .rank = 0, .ranks = 1});
    std::vector<std::vector<int32_t>> orders;
    std::map<int32_t, int> shifts;
    for (int epoch = 0; epoch < 20; ++epoch) {
      EXPECT_EQ(sampler.epochs(0), epoch);
      std::vector<int32_t> seen;
      do {
        const Batch batch = sampler.next(1);
        for (int32_t t = 0; t < 9; ++t) EXPECT_EQ(batch.ids[static_cast<size_t>(t)], batch.ids[0] + t);
        EXPECT_EQ(std::count(batch.first.begin(), batch.first.end(), 0), 9);
        EXPECT_EQ(std::count(batch.loss.begin(), batch.loss.end(), 1), 9);
        seen.push_back(batch.ids[0]);
      } while (sampler.state()[8] != 0);  // the position in the epoch
      orders.push_back(seen);
      std::sort(seen.begin(), seen.end());
      const int32_t shift = seen.front();
      ++shifts[shift];
      for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], shift + 8 * static_cast<int32_t>(i));
      EXPECT_GT(seen.back() + 8 + 8, tokens - 1);  // no further window fits
      EXPECT_TRUE(epoch > 0 || shift == 0);
    }
    if (tokens < 100) continue;
    EXPECT_GE(shifts.size(), 5u);
    std::sort(orders.begin(), orders.end());
    EXPECT_EQ(std::unique(orders.begin(), orders.end()), orders.end());
    EXPECT_FALSE(std::is_sorted(orders[0].begin(), orders[0].end()));
  }
}

TEST(Sampler, OrderIsRandomEnough) {
  constexpr int64_t kWindows = 1000;
  Sampler sampler(one(counting_set(kWindows * 4 + 1)), {.seq_len = 4, .seed = 3, .rank = 0, .ranks = 1});
  double moved = 0, neighbours = 0;
  int32_t before = -100;
  for (int64_t i = 0; i < kWindows; ++i) {
    const int32_t at = starts(sampler.next(1))[0] / 4;
    moved += std::abs(static_cast<double>(at - i));
    neighbours += std::abs(at - before) == 1;
    before = at;
  }
  EXPECT_NEAR(moved / kWindows, kWindows / 3.0, 30);  // of a random permutation: n / 3
  EXPECT_LT(neighbours, 12);                          // expected 2
}

TEST(Sampler, DifferentSeedsDifferentOrders) {
  Sampler a(one(counting_set(801)), {.seq_len = 8, .seed = 1, .rank = 0, .ranks = 1});
  Sampler b(one(counting_set(801)), {.seq_len = 8, .seed = 2, .rank = 0, .ranks = 1});
  EXPECT_NE(starts(a.next(50)), starts(b.next(50)));
}

TEST(Sampler, ResumesAnywhere) {
  const auto sources = [] {
    return std::vector<SamplerSource>{{TokenRange(counting_set(100)), 1}, {TokenRange(counting_set(333)), 2.5}};
  };
  const SamplerOptions options{.seq_len = 8, .seed = 11, .rank = 0, .ranks = 1};
  Sampler whole(sources(), options);
  for (int step = 0; step < 120; ++step) {
    Sampler resumed(sources(), options);
    resumed.set_state(whole.state());
    EXPECT_EQ(resumed.state(), whole.state());
    Sampler copy = whole;
    for (const int64_t rows : {1, 4, 7}) {
      const Batch a = copy.next(rows), b = resumed.next(rows);
      ASSERT_EQ(a.ids, b.ids) << step;
    }
    whole.next(1 + step % 3);
  }
}

TEST(Sampler, AnyNumberOfRanksSeesTheSameBatch) {
  const auto sources = [] {
    return std::vector<SamplerSource>{{TokenRange(counting_set(200)), 1}, {TokenRange(counting_set(500)), 3}};
  };
  Sampler alone(sources(), {.seq_len = 8, .seed = 5, .rank = 0, .ranks = 1});
  for (const int ranks : {2, 3, 6}) {
    std::vector<Sampler> samplers;
    for (int r = 0; r < ranks; ++r) {
      samplers.emplace_back(sources(), SamplerOptions{.seq_len = 8, .seed = 5, .rank = r, .ranks = ranks});
      samplers.back().set_state(alone.state());
    }
    for (int step = 0; step < 30; ++step) {
      std::vector<int32_t> joined;
      for (Sampler& s : samplers) {
        const Batch part = s.next(12);
        EXPECT_EQ(part.rows, 12 / ranks);
        joined.insert(joined.end(), part.ids.begin(), part.ids.end());
      }
      EXPECT_EQ(joined, alone.next(12).ids);
    }
  }
}

TEST(Sampler, HonoursWeights) {
  const auto range = [](int64_t n) { return TokenRange(counting_set(n)); };
  Sampler sampler({{range(1000), 0.2}, {range(50), 0.5}, {range(3000), 1.3}},
                  {.seq_len = 4, .seed = 1, .rank = 0, .ranks = 1});
  for (int64_t n = 1; n <= 4000; ++n) {
    sampler.next(1);
    for (size_t i = 0; i < 3; ++i) {
      const double weight = std::vector{0.1, 0.25, 0.65}[i], drawn = static_cast<double>(sampler.state()[9 + 6 * i]);
      ASSERT_NEAR(drawn, weight * static_cast<double>(n), 2);
    }
  }
  // Without weights: by size, so that all epochs end together.
  Sampler sized({{range(401), 0}, {range(1201), 0}}, {.seq_len = 4, .seed = 1, .rank = 0, .ranks = 1});
  sized.next(200);
  EXPECT_DOUBLE_EQ(sized.epochs(0), 0.5);
  EXPECT_DOUBLE_EQ(sized.epochs(1), 0.5);
}

TEST(Sampler, Errors) {
  const SamplerOptions options{.seq_len = 64, .seed = 1, .rank = 0, .ranks = 1};
  EXPECT_EQ(error_of([&] { Sampler(one(counting_set(64)), options); }),
            "counting: expected at least 65 tokens (sequence length + 1), found 64");
  EXPECT_EQ(error_of([&] { Sampler(one(counting_set(65)), options); }), "");
  EXPECT_NE(error_of([&] { Sampler({}, options); }), "");
  const auto with = [&](double a, double b) {
    return error_of([&] { Sampler({{TokenRange(counting_set(99)), a}, {TokenRange(counting_set(99)), b}}, options); });
  };
  expect_contains(with(1, 0), "weight");
  expect_contains(with(1, -1), "weight");
  expect_contains(with(1, NAN), "weight");
  EXPECT_EQ(with(1, 2), "");
}

TEST(Sampler, RefusesOtherStates) {
  const SamplerOptions options{.seq_len = 8, .seed = 1, .rank = 0, .ranks = 1};
  Sampler sampler(one(counting_set(100)), options);
  sampler.next(5);
  const auto state = sampler.state();
  for (size_t i = 0; i < state.size(); ++i) {
    for (const int64_t value : {int64_t{-1}, INT64_MAX, INT64_MIN}) {
      auto bad = state;
      bad[i] = value;
      Sampler other(one(counting_set(100)), options);
      const auto before = other.state();
      EXPECT_NE(error_of([&] { other.set_state(bad); }), "") << i;
      EXPECT_EQ(other.state(), before);
    }
    Sampler other(one(counting_set(100)), options);
    EXPECT_NE(error_of([&] { other.set_state(std::span(state).first(i)); }), "");
  }
  Sampler other(one(counting_set(101)), options);
  expect_contains(error_of([&] { other.set_state(state); }), "other data");
}

/// Chats of random lengths, some text between them, a random loss mask. Token id = number of the document.
TokenBuffer random_chats(uint64_t seed, std::vector<bool>& isolated) {
  Rng rng(seed);
  TokenBuffer buffer;
  for (int32_t document = 0; document < 200; ++document) {
    isolated.push_back(rng.below(4) != 0);
    buffer.documents.push_back(buffer.tokens.size() | (isolated.back() ? kIsolatedDocument : 0));
    for (uint64_t runs = 1 + rng.below(3); runs > 0; --runs) {
      buffer.append(std::vector<int32_t>(1 + rng.below(9), document), rng.below(2) == 0);
    }
  }
  return buffer;
}

TEST(Sampler, ChatsNeverSeeEachOther) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<bool> isolated;
    const TokenBuffer buffer = random_chats(seed, isolated);
    const auto set = std::make_shared<const TokenSet>(buffer, TokenSetInfo{200, 0, 0}, "chats");
    Sampler sampler(one(set), {.seq_len = 32, .seed = seed, .rank = 0, .ranks = 1});
    for (int n = 0; n < 100; ++n) {
      const Batch batch = sampler.next(1);
      std::vector<int32_t> targets(33);
      for (size_t t = 0; t < 33; ++t) {
        const auto id = static_cast<size_t>(batch.ids[t]);
        size_t expected = t;  // the first token from which on nothing lies between that must not be seen
        while (expected > 0 && (batch.ids[expected - 1] == batch.ids[t] ||
                                (!isolated[id] && !isolated[static_cast<size_t>(batch.ids[expected - 1])])))
          --expected;
        ASSERT_EQ(batch.first[t], static_cast<int32_t>(expected));
      }
      for (const int64_t shift : {1, 2}) {
        fill_targets(batch, shift, targets);
        for (size_t t = 0; t < 33; ++t) {
          const size_t target = t + static_cast<size_t>(shift);
          const bool ok = target < 33 && batch.loss[target] && batch.first[target] <= static_cast<int32_t>(t);
          ASSERT_EQ(targets[t], ok ? batch.ids[target] : -1);
        }
      }
    }
  }
}

TEST(EvalWindows, EveryTokenIsATargetOnce) {
  for (const int64_t tokens : {2, 8, 9, 10, 17, 100, 101}) {
    for (const int64_t context : {0, 3, 7}) {
      TokenRange range(counting_set(tokens));
      if (tokens > 50) range.begin = 5;
      const EvalWindows windows(range, 8, context);
      std::vector<int> hits(static_cast<size_t>(tokens), 0);
      std::vector<int32_t> targets;
      for (int64_t w = 0; w < windows.size(); w += 3) {
        const Batch batch = windows.batch(w, 3);
        targets.resize(batch.ids.size());
        fill_targets(batch, 1, targets);
        for (size_t i = 0; i < targets.size(); ++i) {
          if (targets[i] < 0) continue;
          EXPECT_EQ(targets[i], batch.ids[i] + 1);
          ++hits[static_cast<size_t>(targets[i])];
          // The promised context, except in the first window.
          EXPECT_TRUE((w == 0 && i < 9) || static_cast<int64_t>(i) % 9 >= context);
        }
      }
      for (int64_t t = 0; t < tokens; ++t)
        EXPECT_EQ(hits[static_cast<size_t>(t)], t > range.begin) << tokens << " " << t;
    }
  }
  expect_contains(error_of([&] { EvalWindows(TokenRange(counting_set(1)), 8); }), "found 1");
}

}  // namespace
}  // namespace sluice
