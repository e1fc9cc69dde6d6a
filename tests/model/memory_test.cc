// A dry run takes exactly the memory of the real pass.
#include "model/tiny_model.h"

namespace sluice::test {
namespace {

/// A model and the batch it runs on.
struct Plan {
  std::string name;
  HfConfig config;
  int64_t mtp_modules, tokens;
  bool documents;
  friend void PrintTo(const Plan& p, std::ostream* out) { *out << p.name; }
};

HfConfig dense_config() {
  HfConfig c = tiny_config();
  c.n_routed_experts = c.moe_intermediate_size = c.n_shared_experts = c.num_experts_per_tok = 0;
  return c;
}

/// Sizes whose tensors are no multiples of the arena's 64 bytes; `long` has more rows than the head takes at a time.
const Plan kPlans[] = {{"dense", dense_config(), 0, 13, false},
                       {"two_mtp", tiny_config(), 2, 19, false},
                       {"grouped", grouped_config(), 1, 17, true},
                       {"v2", v2_config(), 0, 15, false},
                       {"long", tiny_config(), 1, 300, true}};

constexpr int64_t kBatch = 2;

class Memory : public testing::TestWithParam<Plan> {
 protected:
  const Plan& plan() const { return GetParam(); }

  PassOptions options(bool recompute) const {
    PassOptions o;
    o.mtp_weight = 0.3f;
    o.balance_alpha = 1e-4f;
    o.recompute = recompute;
    return o;
  }

  /// Peak of a pass over real weights and tokens.
  size_t real_peak(Precision precision, bool recompute, bool backward) {
    Stream s(1);
    Arena a(size_t{1} << 28);
    const Model m = random_model(s, plan().config, plan().mtp_modules, precision);
    const ModelBatch b = random_batch(a, m.config, kBatch, plan().tokens, plan().mtp_modules, plan().documents);
    if (!backward) {
      model_forward(s, a, m, b, options(recompute), {});
      return a.peak_bytes();
    }
    const Model grad = allocate_f32_like(m);
    model_forward_backward(s, a, m, grad.weights, b, options(recompute), {});
    return a.peak_bytes();
  }

  /// The arena after the same pass without weights, tokens or memory.
  Arena dry_run(Precision precision, bool recompute, bool backward) {
    Stream s = Stream::dry();
    Arena a = Arena::counting(), weights = Arena::counting();
    Model m, grad;
    m.config = plan().config;
    m.precision = precision;
    m.weights = weight_shapes(m.config, plan().mtp_modules);
    grad.weights = weight_shapes(m.config, plan().mtp_modules);
    for (const Param& p : parameters(m.weights)) allocate(*p.matrix, working_format(p.kind, precision), weights);
    for (const Param& p : parameters(grad.weights)) allocate(*p.matrix, Format::f32, weights);
    ModelBatch b;
    b.batch = kBatch;
    b.tokens = plan().tokens;
    b.ids_T = a.alloc(DType::i32, {kBatch * b.tokens});
    if (plan().documents) b.first_T = a.alloc(DType::i32, {kBatch * b.tokens});
    b.target_T = a.alloc(DType::i32, {kBatch * b.tokens});
    for (int64_t k = 0; k < plan().mtp_modules; ++k)
      b.mtp_target.push_back(a.alloc(DType::i32, {kBatch * (b.tokens - 1 - k)}));
    if (backward)
      model_forward_backward(s, a, m, grad.weights, b, options(recompute), {});
    else
      model_forward(s, a, m, b, options(recompute), {});
    return a;
  }
};

constexpr Precision kPrecisions[] = {Precision::f32, Precision::bf16, Precision::fp8};

TEST_P(Memory, ADryRunHasThePeakOfTheRealPass) {
  for (const Precision precision : kPrecisions)
    for (const bool recompute : {false, true})
      for (const bool backward : {false, true})
        EXPECT_EQ(dry_run(precision, recompute, backward).peak_bytes(), real_peak(precision, recompute, backward))
            << "precision " << static_cast<int>(precision) << (recompute ? ", recompute" : ", keep")
            << (backward ? ", backward" : ", forward");
}

/// Bytes of `tokens` rows of what a block computes again: q, its normed latent, the normed latent of keys and values
/// and their projection; the rows of the experts and the products of SwiGLU.
size_t recomputed_bytes(const HfConfig& c, const BlockWeights& w, Precision precision, int64_t tokens) {
  const auto bytes = [&](int64_t rows, int64_t cols) {
    const size_t n = static_cast<size_t>(rows * cols) * dtype_size(activation_dtype(precision));
    return (n + 63) / 64 * 64;
  };
  const size_t attention = bytes(tokens, c.num_attention_heads * (c.qk_nope_head_dim + c.qk_rope_head_dim)) +
                           bytes(tokens, c.q_lora_rank) + bytes(tokens, c.kv_lora_rank) +
                           bytes(tokens, w.mla.kv_b.rows);
  if (!w.is_moe) return attention + bytes(tokens, c.intermediate_size);
  const int64_t slots = tokens * c.num_experts_per_tok;
  return attention + bytes(slots, c.hidden_size) + bytes(slots, c.moe_intermediate_size) +
         bytes(tokens, w.moe.shared.gate.rows);
}

TEST_P(Memory, RecomputationDropsWhatItComputesAgain) {
  for (const Precision precision : kPrecisions) {
    const ModelWeights w = weight_shapes(plan().config, plan().mtp_modules);
    size_t dropped = 0;
    for (const BlockWeights& l : w.layers)
      dropped += recomputed_bytes(plan().config, l, precision, kBatch * plan().tokens);
    for (size_t k = 0; k < w.mtp.size(); ++k)
      dropped += recomputed_bytes(plan().config, w.mtp[k].block, precision,
                                  kBatch * (plan().tokens - 1 - static_cast<int64_t>(k)));
    EXPECT_EQ(dry_run(precision, true, false).mark(), dry_run(precision, false, false).mark() - dropped);
    EXPECT_LT(dry_run(precision, true, true).peak_bytes(), dry_run(precision, false, true).peak_bytes());
  }
}

TEST_P(Memory, ModelBytesIsWhatAModelTakes) {
  for (const Precision precision : kPrecisions) {
    Model m = allocate_model(plan().config, plan().mtp_modules, precision);
    EXPECT_EQ(model_bytes(plan().config, plan().mtp_modules, precision), m.memory.peak_bytes());
    size_t bytes = 0, padding = 0;
    for (const Param& p : parameters(m.weights)) {
      bytes += matrix_bytes(*p.matrix);
      padding += 2 * 63;  // of codes and scales
    }
    EXPECT_GE(m.memory.peak_bytes(), bytes);
    EXPECT_LE(m.memory.peak_bytes(), bytes + padding);
  }
}

INSTANTIATE_TEST_SUITE_P(Plans, Memory, testing::ValuesIn(kPlans), [](const auto& plan) { return plan.param.name; });

}  // namespace
}  // namespace sluice::test
