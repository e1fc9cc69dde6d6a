// What the MTP modules of a pass may see and what they hand on, with two modules (specification 4.1).
#include <algorithm>
#include <cmath>

#include "model/tiny_model.h"

namespace sluice::test {
namespace {

constexpr int64_t kTokens = 9, kModules = 2;

class Mtp : public testing::Test {
 protected:
  /// Normed hidden states of one sequence: those of the main model, then those of every module.
  std::vector<Tensor> normed(const ModelBatch& b) {
    const PassResult r = model_forward(s_, arena_, model_, b, {}, {});
    std::vector<Tensor> all = {r.normed_TD};
    all.insert(all.end(), r.mtp_normed.begin(), r.mtp_normed.end());
    return all;
  }
  ModelBatch batch(bool documents = false) {
    return random_batch(arena_, model_.config, 1, kTokens, kModules, documents);
  }
  void change_token(const ModelBatch& b, int64_t position) {
    int32_t& id = b.ids_T.ptr<int32_t>()[position];
    id = (id + 1) % static_cast<int32_t>(model_.config.vocab_size);
  }

  Stream s_{1};
  Arena arena_{size_t{1} << 26};
  Model model_ = random_model(s_, tiny_config(), kModules);
};

/// Whether a row is another one; rounding, which may depend on what other rows hold, does not count.
bool differs(const Tensor& a, const Tensor& b, int64_t row) {
  double difference = 0;
  for (int64_t i = 0; i < a.cols(); ++i)
    difference =
        std::max(difference, std::abs(double{a.f32()[row * a.cols() + i]} - double{b.f32()[row * b.cols() + i]}));
  return difference > 1e-5;
}

TEST_F(Mtp, DepthKSeesTheTokensUpToKAhead) {
  const std::vector<Tensor> before = normed(batch());
  for (int64_t changed = 0; changed < kTokens; ++changed) {
    const ModelBatch b = batch();
    change_token(b, changed);
    const std::vector<Tensor> after = normed(b);
    ASSERT_EQ(after.size(), 1u + kModules);
    for (int64_t depth = 0; depth <= kModules; ++depth) {
      const Tensor &old_TD = before[static_cast<size_t>(depth)], &new_TD = after[static_cast<size_t>(depth)];
      ASSERT_EQ(new_TD.rows(), kTokens - depth);
      for (int64_t i = 0; i < kTokens - depth; ++i)
        EXPECT_EQ(differs(new_TD, old_TD, i), changed <= i + depth)
            << "depth " << depth << ", position " << i << ", changed token " << changed;
    }
  }
}

TEST_F(Mtp, ADocumentDoesNotSeeTheOneBeforeIt) {
  const ModelBatch b = batch(true);
  const std::vector<Tensor> before = normed(b);
  const int64_t border = b.first_T.ptr<int32_t>()[kTokens - 1];
  ASSERT_GT(border, 0);
  change_token(b, 0);
  const std::vector<Tensor> after = normed(b);
  for (size_t depth = 0; depth < after.size(); ++depth)
    for (int64_t i = 0; i < after[depth].rows(); ++i)
      EXPECT_EQ(differs(after[depth], before[depth], i), i < border) << "depth " << depth << ", position " << i;
}

TEST_F(Mtp, TheNextModuleTakesTheHiddenStateBeforeTheHeadNorm) {
  const ModelBatch b = batch();
  const std::vector<Tensor> before = normed(b);
  float* norm = static_cast<float*>(model_.weights.mtp[0].head_norm.data);
  std::transform(norm, norm + model_.config.hidden_size, norm, [](float x) { return -2 * x; });
  const std::vector<Tensor> after = normed(b);
  for (int64_t i = 0; i < after[1].size(); ++i) EXPECT_EQ(after[1].f32()[i], -2 * before[1].f32()[i]);
  for (int64_t i = 0; i < after[2].size(); ++i) EXPECT_EQ(after[2].f32()[i], before[2].f32()[i]);
}

}  // namespace
}  // namespace sluice::test
