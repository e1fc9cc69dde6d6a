// What the model derives from config.json, and the one line that a user reads about a config.json that is wrong. Every
// field of the file on its own is tested in formats/hf_config_test.cc.
#include "model/config.h"

#include <functional>

#include "base/temp_dir.h"
#include "model/checkpoint.h"
#include "model/tiny_model.h"

namespace sluice::test {
namespace {

TEST(ModelConfig, LayersWithExperts) {
  const auto layers = [](int64_t first, int64_t frequency, int64_t experts) {
    HfConfig c = tiny_config();
    c.first_k_dense_replace = first, c.moe_layer_freq = frequency, c.n_routed_experts = experts;
    std::string moe;
    for (int64_t l = 0; l < 6; ++l) moe += is_moe_layer(c, l) ? 'x' : '.';
    return moe;
  };
  EXPECT_EQ(layers(1, 1, 4), ".xxxxx");
  EXPECT_EQ(layers(0, 1, 4), "xxxxxx");
  EXPECT_EQ(layers(1, 2, 4), "..x.x.");
  EXPECT_EQ(layers(0, 3, 4), "x..x..");
  EXPECT_EQ(layers(9, 1, 4), "......");
  EXPECT_EQ(layers(0, 1, 0), "......");
}

TEST(ModelConfig, RouterOfEveryMethod) {
  const RouterConfig v3 = router_config(grouped_config());
  EXPECT_EQ(v3.n_group, 4);
  EXPECT_EQ(v3.topk_group, 2);
  EXPECT_EQ(v3.top_k, 3);
  EXPECT_EQ(v3.scoring, Scoring::sigmoid);
  EXPECT_EQ(v3.method, TopkMethod::noaux_tc);
  EXPECT_TRUE(v3.norm_topk_prob);
  EXPECT_EQ(v3.scale, 1.5f);
  HfConfig c = v2_config();
  EXPECT_EQ(router_config(c).scoring, Scoring::softmax);
  EXPECT_EQ(router_config(c).method, TopkMethod::group_limited_greedy);
  EXPECT_FALSE(router_config(c).norm_topk_prob);
  c.topk_method = "greedy";
  EXPECT_EQ(router_config(c).method, TopkMethod::greedy);
}

TEST(ModelConfig, ShapeOfAttention) {
  const AttentionShape a = attention_shape(grouped_config(), 3, 11);
  EXPECT_EQ(a.batch, 3);
  EXPECT_EQ(a.tokens, 11);
  EXPECT_EQ(a.heads, 2);
  EXPECT_EQ(a.nope, 8);
  EXPECT_EQ(a.rope, 6);
  EXPECT_EQ(a.value, 6);
  EXPECT_EQ(a.scale, softmax_scale(grouped_config()));
}

class ConfigFile : public testing::Test {
 protected:
  void write(const HfConfig& c) { write_file(file(), write_hf_config(c)); }
  fs::path file() const { return dir_ / "config.json"; }
  TempDir dir_;
};

TEST_F(ConfigFile, IsReadBack) {
  for (const HfConfig& c : {tiny_config(), grouped_config(), v2_config()}) {
    write(c);
    EXPECT_EQ(load_config(dir_.path()), c);
  }
}

TEST_F(ConfigFile, FieldsAtOddsAreNamed) {
  const std::pair<std::function<void(HfConfig&)>, const char*> cases[] = {
      {[](auto& c) { c.vocab_size = 0; }, "vocab_size: expected an integer from 1 to 2147483647, found 0"},
      {[](auto& c) { c.hidden_size = -16; }, "hidden_size: expected an integer from 1 to 2147483647, found -16"},
      {[](auto& c) { c.num_hidden_layers = 0; }, "num_hidden_layers: expected an integer from 1 to 4096, found 0"},
      {[](auto& c) { c.moe_layer_freq = 0; }, "moe_layer_freq: expected an integer from 1 to 2147483647, found 0"},
      {[](auto& c) { c.moe_intermediate_size = 0; },
       "moe_intermediate_size: expected an integer from 1 to 2147483647, found null"},
      {[](auto& c) { c.num_experts_per_tok = 5; }, "num_experts_per_tok: expected an integer from 1 to 4, found 5"},
      {[](auto& c) { c.n_group = 3; }, "n_group: expected a divisor of n_routed_experts 8, found 3"},
      {[](auto& c) { c.topk_group = 5; }, "topk_group: expected an integer from 1 to 4, found 5"},
      {[](auto& c) { c.scoring_func = "softmax"; },
       "scoring_func: expected sigmoid (topk_method noaux_tc), found softmax"},
      {[](auto& c) { c.topk_method = "greedy"; }, "scoring_func: expected softmax (topk_method greedy), found sigmoid"},
      {[](auto& c) { c.kv_lora_rank = 0; }, "kv_lora_rank: expected an integer from 1 to 2147483647, found 0"},
      {[](auto& c) { c.qk_rope_head_dim = 5; }, "qk_rope_head_dim: expected an even number, found 5"},
      {[](auto& c) { c.num_nextn_predict_layers = 65; },
       "num_nextn_predict_layers: expected an integer from 0 to 64, found 65"},
      {[](auto& c) { c.yarn->factor = 0.5; }, "rope_scaling: factor: expected a number from 1 to 1000000, found 0.5"},
      {[](auto& c) { c.yarn->beta_slow = 9; }, "rope_scaling: beta_fast: expected at least beta_slow 9, found 8"},
      {[](auto& c) { c.yarn->original_max_position_embeddings = 0; },
       "rope_scaling: original_max_position_embeddings: expected an integer from 1 to 2147483647, found 0"},
  };
  for (const auto& [change, expected] : cases) {
    HfConfig c = grouped_config();
    change(c);
    write(c);
    EXPECT_EQ(error_of([&] { load_config(dir_.path()); }), file().string() + ": " + expected);
  }
}

TEST_F(ConfigFile, AtOddsWithTheWeightsNamesTheTensor) {
  Stream s(1);
  Model m = random_model(s, tiny_config(), 0);
  save_checkpoint(s, dir_.path(), m.config, m.weights, Precision::f32, stored_rows());
  const std::pair<std::function<void(HfConfig&)>, const char*> cases[] = {
      {[](auto& c) { c.vocab_size = 30; },
       "model.embed_tokens.weight: expected shape [30, 16] (from config.json), found [29, 16]"},
      {[](auto& c) { c.v_head_dim = 5; },
       "model.layers.0.self_attn.kv_b_proj.weight: expected shape [26, 12] (from config.json), found [28, 12]"},
      {[](auto& c) { c.n_routed_experts = 8; },
       "model.layers.1.mlp.gate.weight: expected shape [8, 16] (from config.json), found [6, 16]"},
      {[](auto& c) { c.n_shared_experts = 2; },
       "model.layers.1.mlp.shared_experts.gate_proj.weight: expected shape [16, 16] (from config.json), found [8, 16]"},
      {[](auto& c) { c.num_hidden_layers = 4; },
       "expected a tensor \"model.layers.3.input_layernorm.weight\", found none"},
      {[](auto& c) { c.first_k_dense_replace = 2; },
       "expected a tensor \"model.layers.1.mlp.gate_proj.weight\", found none"},
      {[](auto& c) { c.q_lora_rank = 4; },
       "expected a tensor \"model.layers.0.self_attn.q_a_proj.weight\", found none"},
  };
  for (const auto& [change, expected] : cases) {
    HfConfig c = m.config;
    change(c);
    write(c);
    const std::string text = error_of([&] { load_model(s, dir_.path(), Precision::f32); });
    EXPECT_NE(text.find(std::string(": ") + expected), std::string::npos) << text;
    EXPECT_TRUE(text.starts_with(dir_.path().string())) << text;
  }
}

TEST_F(ConfigFile, IsLookedForInTheFolderAndInTheLatestOfARun) {
  EXPECT_EQ(error_of([&] { resolve_checkpoint(dir_.path()); }),
            dir_.path().string() + ": expected a checkpoint folder with config.json, or a training run with `latest`");
  const fs::path run = dir_ / "run";
  fs::create_directories(run / "step-5");
  write_file(run / "step-5/config.json", write_hf_config(tiny_config()));
  fs::create_directory_symlink("step-5", run / "latest");
  EXPECT_EQ(resolve_checkpoint(run), run / "latest");
  EXPECT_EQ(resolve_checkpoint(run / "step-5"), run / "step-5");
  EXPECT_TRUE(error_of([&] { load_config(run); }).starts_with((run / "config.json").string()));
}

}  // namespace
}  // namespace sluice::test
