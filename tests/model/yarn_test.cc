// The model's RoPE tables and softmax scales (specification 2.5, 2.6) against ops/ref/rope.h, which
// tests/ops/rope_test.cc compares with the specification, and against the values printed there.
#include <cmath>

#include "model/config.h"
#include "model/tiny_model.h"
#include "ops/ref/rope.h"

namespace sluice::test {
namespace {

struct Case {
  const char* name;
  int64_t dims;
  double theta;
  std::optional<HfYarn> yarn;
};

const Case kCases[] = {
    {"plain", 64, 10000, {}},
    {"Moonlight", 64, 50000, {}},
    {"V3", 64, 10000, HfYarn{40, 32, 1, 1, 1, 4096}},
    {"V2-Lite", 64, 10000, HfYarn{40, 32, 1, 0.707, 0.707, 4096}},
    {"Kimi-K2, both betas 1", 64, 50000, HfYarn{32, 1, 1, 1, 1, 4096}},
    {"magnitude not 1", 10, 100, HfYarn{8, 16, 2, 0.3, 1.7, 128}},
    {"mscale_all_dim absent", 64, 10000, HfYarn{40, 32, 1, 1, 0, 4096}},
    {"factor 1", 64, 10000, HfYarn{1, 32, 1, 2, 1, 4096}},
    {"empty ramp: low = high = 0", 8, 10000, HfYarn{4, 32, 1, 1, 1, 6}},
    {"both ends of the ramp cut off", 4, 1.5, HfYarn{4, 32, 1, 1, 1, 4096}},
};

HfConfig config(const Case& c) {
  HfConfig config = tiny_config();
  config.qk_nope_head_dim = 2 * c.dims;
  config.qk_rope_head_dim = c.dims;
  config.rope_theta = c.theta;
  config.yarn = c.yarn;
  return config;
}

ref::Yarn reference(const Case& c) {
  ref::Yarn y{.base = c.theta};
  if (!c.yarn) return y;
  const HfYarn& h = *c.yarn;
  return {c.theta,
          h.factor,
          h.beta_fast,
          h.beta_slow,
          h.mscale,
          h.mscale_all_dim,
          static_cast<double>(h.original_max_position_embeddings)};
}

/// Rows [0, positions) of the model's table.
std::vector<float> table(const HfConfig& c, int64_t positions) {
  std::vector<float> t(static_cast<size_t>(positions * c.qk_rope_head_dim));
  fill_rope_table(c, Tensor(t.data(), {positions, c.qk_rope_head_dim}));
  return t;
}

TEST(Yarn, TablesAreTheReferences) {
  for (const Case& c : kCases) {
    const int64_t positions = 5000;
    const ref::Yarn yarn = reference(c);
    const auto expected = ref::rope_table(positions, ref::rope_inv_freq(c.dims, yarn), ref::yarn_magnitude(yarn));
    const std::vector<float> got = table(config(c), positions);
    ASSERT_EQ(static_cast<int64_t>(got.size()), expected.size());
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(double{got[i]} - expected.data[i]));
    // One rounding to float32 of numbers up to the magnitude; angles of 5000 radians in double add 1e-12.
    EXPECT_LE(worst, 6.1e-8 * std::max(1.0, ref::yarn_magnitude(yarn))) << c.name;
  }
}

TEST(Yarn, FrequenciesOfV3AreThoseOfTheSpecification) {
  const std::pair<size_t, double> printed[] = {{0, 1.0},
                                               {10, 5.623413252e-2},
                                               {11, 3.900692657e-2},
                                               {16, 5.5e-3},
                                               {20, 7.905694150e-4},
                                               {23, 3.333803580e-5},
                                               {31, 3.333803580e-6}};
  const std::vector<float> t = table(config(kCases[2]), 2);
  const float* row = t.data() + 64;  // position 1: the angles are the frequencies
  for (const auto& [i, frequency] : printed)
    EXPECT_NEAR(std::atan2(double{row[32 + i]}, double{row[i]}) / frequency, 1, 2e-7) << i;
}

TEST(Yarn, MagnitudeIsOnCosinesAndSines) {
  // 0.1 * 0.3 ln 8 + 1 = 1.0623832462 over 0.1 * 1.7 ln 8 + 1 = 1.3535050620
  constexpr double kMagnitude = 1.0623832462 / 1.3535050620;
  const int64_t half = kCases[5].dims / 2;
  const std::vector<float> t = table(config(kCases[5]), 40);
  for (int64_t i = 0; i < half; ++i) {
    EXPECT_FLOAT_EQ(t[static_cast<size_t>(i)], static_cast<float>(kMagnitude));
    EXPECT_EQ(t[static_cast<size_t>(half + i)], 0);
    const size_t last = static_cast<size_t>(39 * 2 * half + i);
    EXPECT_NEAR(std::hypot(double{t[last]}, double{t[last + static_cast<size_t>(half)]}), kMagnitude, 1e-7);
  }
}

TEST(Yarn, SoftmaxScales) {
  for (const Case& c : kCases)
    EXPECT_FLOAT_EQ(softmax_scale(config(c)), static_cast<float>(ref::softmax_scale(3 * c.dims, reference(c))))
        << c.name;
  // Printed in the specification, for keys of 192 channels.
  EXPECT_FLOAT_EQ(softmax_scale(config(kCases[0])), 0.0721687836f);
  EXPECT_FLOAT_EQ(softmax_scale(config(kCases[2])), 0.1352337789f);
  EXPECT_FLOAT_EQ(softmax_scale(config(kCases[3])), 1.5896261652f * 0.0721687836f);
}

}  // namespace
}  // namespace sluice::test
