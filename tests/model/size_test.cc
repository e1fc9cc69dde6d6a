// Counts of parameters, bytes and operations against those published or recomputed in specification 1.2 and 10.2.
#include "model/size.h"

#include <set>

#include "base/file.h"
#include "model/tiny_model.h"

namespace sluice::test {
namespace {

HfConfig released(const std::string& name) {
  const fs::path file = fs::path(SLUICE_SOURCE_DIR) / "configs/models" / name;
  return parse_hf_config(read_file(file), file.string());
}

/// Moonlight's shape with the sizes of V2-Lite, then of V2, that differ (specification 1.1).
HfConfig v2_lite() {
  HfConfig c = released("moonlight-16b-a3b.json");
  c.model_type = "deepseek_v2";
  c.scoring_func = "softmax";
  c.topk_method = "greedy";
  c.vocab_size = 102400;
  c.intermediate_size = 10944;
  return c;
}

TEST(ModelSize, ParametersOfReleasedModels) {
  const ModelSize v3 = model_size(released("deepseek-v3-671b.json"), 1);
  EXPECT_EQ(v3.main, 671026419200);
  EXPECT_EQ(v3.mtp, 11610068224);
  EXPECT_EQ(v3.main + v3.mtp + v3.mtp_copies, 684489845504);
  EXPECT_EQ(v3.active, 36625618432);
  EXPECT_EQ(v3.active_with_embedding, 37552297472);
  EXPECT_EQ(v3.kv_bytes_per_token, 70272);
  EXPECT_EQ(model_size(released("moonlight-16b-a3b.json"), 0).main, 15960110208);
  EXPECT_EQ(model_size(v2_lite(), 0).main, 15706484224);
  HfConfig v2 = v2_lite();
  v2.topk_method = "group_limited_greedy";
  v2.hidden_size = 5120;
  v2.intermediate_size = 12288;
  v2.moe_intermediate_size = 1536;
  v2.num_hidden_layers = 60;
  v2.num_attention_heads = 128;
  v2.n_routed_experts = 160;
  v2.q_lora_rank = 1536;
  EXPECT_EQ(model_size(v2, 0).main, 235741434880);
}

TEST(ModelSize, TensorsAndBytesOfTheReleasedCheckpoint) {
  const HfConfig c = released("deepseek-v3-671b.json");
  ModelWeights w = weight_shapes(c, 1);
  std::set<std::string> names;
  int64_t tensors = 2;  // the module's copies of embedding and head
  for (const Param& p : parameters(w)) {
    EXPECT_TRUE(names.insert(p.name).second) << p.name;
    tensors += p.kind == ParamKind::linear ? 2 : 1;  // codes and scales
  }
  EXPECT_EQ(tensors, 91991);
  // The specification counts the biases of the 59 routers as bf16.
  EXPECT_EQ(stored_bytes(c, 1, Precision::fp8).total(), 688574809152 + 59 * 256 * 2);
}

TEST(ModelSize, ActiveParametersAndOperationsByHand) {
  const HfConfig c = tiny_config();  // D 16, V 29, 2 heads of 8 + 4 and 6, rank 12, experts of 8, 2 + 1 of them active
  const int64_t mla = 24 * 16 + 16 * 16 + 28 * 12 + 16 * 12, dense = 3 * 20 * 16, experts = 3 * 3 * 8 * 16 + 6 * 16;
  const int64_t matmul = 3 * mla + dense + 2 * experts, vectors = 3 * (2 * 16 + 12) + 2 * 6 + 16;
  EXPECT_EQ(model_size(c, 0).active, matmul + vectors + 29 * 16);
  // A query of the middle of 33 tokens sees 17 keys: scores over 12 channels, sums over 6, in 2 heads.
  const int64_t attention = 2 * (12 + 6) * 17;
  EXPECT_EQ(training_flops_per_token(c, 0, 33), 6.0 * static_cast<double>(matmul + 29 * 16 + 3 * attention));
  const int64_t module = 16 * 32 + mla + experts + 29 * 16 + attention;
  EXPECT_EQ(training_flops_per_token(c, 2, 33) - training_flops_per_token(c, 0, 33),
            6.0 * static_cast<double>(2 * module));
}

}  // namespace
}  // namespace sluice::test
