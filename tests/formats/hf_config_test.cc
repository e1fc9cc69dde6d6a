#include "formats/hf_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "../base/temp_dir.h"

namespace sluice {
namespace {

using Json = nlohmann::json;

HfConfig load(const std::string& path) { return parse_hf_config(read_file(fs::path(SLUICE_SOURCE_DIR) / path), path); }

/// The released V3 config with some fields replaced.
std::string v3_with(const Json& patch) {
  Json j = Json::parse(read_file(fs::path(SLUICE_SOURCE_DIR) / "configs/models/deepseek-v3-671b.json"));
  for (const auto& [key, value] : patch.items()) j[key] = value;
  return j.dump();
}

std::string v3_without(const char* key) {
  Json j = Json::parse(v3_with(Json::object()));
  j.erase(key);
  return j.dump();
}

HfConfig parse(const std::string& json) { return parse_hf_config(json, "config.json"); }

TEST(HfConfig, ReadsTheReleasedV3Config) {
  const HfConfig c = load("configs/models/deepseek-v3-671b.json");
  EXPECT_EQ(c.model_type, "deepseek_v3");
  EXPECT_EQ(c.vocab_size, 129280);
  EXPECT_EQ(c.hidden_size, 7168);
  EXPECT_EQ(c.intermediate_size, 18432);
  EXPECT_EQ(c.moe_intermediate_size, 2048);
  EXPECT_EQ(c.num_hidden_layers, 61);
  EXPECT_EQ(c.first_k_dense_replace, 3);
  EXPECT_EQ(c.num_attention_heads, 128);
  EXPECT_EQ(c.n_routed_experts, 256);
  EXPECT_EQ(c.n_shared_experts, 1);
  EXPECT_EQ(c.num_experts_per_tok, 8);
  EXPECT_EQ(c.n_group, 8);
  EXPECT_EQ(c.topk_group, 4);
  EXPECT_EQ(c.scoring_func, "sigmoid");
  EXPECT_EQ(c.topk_method, "noaux_tc");
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.routed_scaling_factor, 2.5);
  EXPECT_EQ(c.q_lora_rank, 1536);
  EXPECT_EQ(c.kv_lora_rank, 512);
  EXPECT_EQ(c.qk_nope_head_dim, 128);
  EXPECT_EQ(c.qk_rope_head_dim, 64);
  EXPECT_EQ(c.v_head_dim, 128);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.rope_theta, 10000);
  EXPECT_EQ(c.yarn, (HfYarn{40, 32, 1, 1, 1, 4096}));
  EXPECT_EQ(c.max_position_embeddings, 163840);
  EXPECT_EQ(c.num_nextn_predict_layers, 1);
  EXPECT_EQ(c.bos_token_id, 0);
  EXPECT_EQ(c.eos_token_id, std::vector<int64_t>{1});
  EXPECT_EQ(c.torch_dtype, "bfloat16");
  EXPECT_EQ(c.quantization, (HfQuantization{128, 128, ""}));
}

TEST(HfConfig, ReadsTheNewerForm) {
  const HfConfig yarn = load("tests/golden/hf/v3-yarn/config.json");
  EXPECT_EQ(yarn.yarn, (HfYarn{4, 8, 1, 0.707, 1, 64}));
  EXPECT_EQ(yarn.scoring_func, "sigmoid");
  EXPECT_EQ(yarn.topk_method, "noaux_tc");
  EXPECT_EQ(yarn.torch_dtype, "float32");
  const HfConfig moonlight = load("tests/golden/hf/moonlight/config.json");
  EXPECT_EQ(moonlight.rope_theta, 50000);
  EXPECT_FALSE(moonlight.yarn);
  EXPECT_EQ(moonlight.q_lora_rank, 0);
  EXPECT_EQ(moonlight.rms_norm_eps, 1e-3);
  const HfConfig lite = load("tests/golden/hf/v2-lite/config.json");
  EXPECT_EQ(lite.model_type, "deepseek_v2");
  EXPECT_EQ(lite.scoring_func, "softmax");
  EXPECT_EQ(lite.topk_method, "greedy");
  EXPECT_FALSE(lite.norm_topk_prob);
  EXPECT_EQ(lite.num_nextn_predict_layers, 0);
  const HfConfig v2 = load("tests/golden/hf/v2/config.json");
  EXPECT_EQ(v2.topk_method, "group_limited_greedy");
  EXPECT_EQ(v2.routed_scaling_factor, 16);
  const HfConfig fp8 = load("tests/golden/hf/fp8/config.json");
  EXPECT_EQ(fp8.quantization, (HfQuantization{128, 128, ""}));
  EXPECT_EQ(fp8.torch_dtype, "");
}

TEST(HfConfig, EveryConfigSurvivesWriteAndParse) {
  size_t files = 0;
  const auto check_file = [&](const fs::path& path) {
    const HfConfig c = parse_hf_config(read_file(path), path.string());
    const std::string text = write_hf_config(c);
    EXPECT_EQ(parse(text), c) << text;
    // The released form.
    const Json j = Json::parse(text);
    EXPECT_TRUE(j.contains("rope_theta") && j.contains("rope_scaling") && j.contains("torch_dtype"));
    EXPECT_FALSE(j.contains("rope_parameters") || j.contains("dtype"));
    EXPECT_EQ(j["architectures"][0], c.model_type == "deepseek_v3" ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM");
    ++files;
  };
  for (const auto& item : fs::directory_iterator(fs::path(SLUICE_SOURCE_DIR) / "configs/models"))
    if (item.path().extension() == ".json") check_file(item.path());
  for (const auto& item : fs::directory_iterator(fs::path(SLUICE_SOURCE_DIR) / "tests/golden/hf"))
    if (fs::exists(item.path() / "config.json")) check_file(item.path() / "config.json");
  EXPECT_GE(files, 11u);
}

TEST(HfConfig, EveryFieldSurvivesWriteAndParse) {
  HfConfig c = parse(v3_with(Json::object()));
  c.model_type = "deepseek_v2";
  c.scoring_func = "softmax";
  c.topk_method = "greedy";
  c.norm_topk_prob = false;
  c.moe_layer_freq = 2;
  c.num_key_value_heads = 1;
  c.n_shared_experts = 0;
  c.q_lora_rank = 0;
  c.rms_norm_eps = 1.0 / 3;
  c.rope_theta = 12345.678;
  c.yarn = HfYarn{1.5, 3, 2, 0.1, 0.2, 77};
  c.num_nextn_predict_layers = 2;
  c.bos_token_id = std::nullopt;
  c.eos_token_id = {5, 6, 7};
  c.pad_token_id = 9;
  c.initializer_range = 0.006;
  c.torch_dtype = "";
  c.quantization = HfQuantization{64, 32, "ue8m0"};
  EXPECT_EQ(parse(write_hf_config(c)), c);
  c.eos_token_id = {};
  c.quantization = std::nullopt;
  c.yarn = std::nullopt;
  EXPECT_EQ(parse(write_hf_config(c)), c);
}

TEST(HfConfig, WritesTheReleasedFields) {
  // Everything the released file says, our file says in the same words.
  const Json released = Json::parse(v3_with(Json::object()));
  const Json ours = Json::parse(write_hf_config(parse(released.dump())));
  for (const auto& [key, value] : released.items()) {
    if (key == "ep_size") continue;
    EXPECT_EQ(ours.value(key, Json()), value) << key;
  }
}

TEST(HfConfig, DefaultsOfAbsentFields) {
  Json j = Json::parse(v3_with(Json::object()));
  for (const char* key : {"scoring_func", "topk_method", "norm_topk_prob", "routed_scaling_factor", "rope_theta",
                          "rope_scaling", "rms_norm_eps", "initializer_range", "tie_word_embeddings", "hidden_act",
                          "num_nextn_predict_layers", "num_key_value_heads", "moe_layer_freq", "torch_dtype",
                          "bos_token_id", "eos_token_id", "quantization_config", "attention_bias", "n_shared_experts"})
    j.erase(key);
  const HfConfig v3 = parse(j.dump());
  EXPECT_EQ(v3.scoring_func, "sigmoid");
  EXPECT_EQ(v3.topk_method, "noaux_tc");
  EXPECT_TRUE(v3.norm_topk_prob);
  EXPECT_EQ(v3.routed_scaling_factor, 2.5);
  EXPECT_EQ(v3.rope_theta, 10000);
  EXPECT_FALSE(v3.yarn);
  EXPECT_EQ(v3.num_nextn_predict_layers, 0);
  EXPECT_EQ(v3.num_key_value_heads, 128);
  EXPECT_EQ(v3.n_shared_experts, 0);
  EXPECT_FALSE(v3.bos_token_id);
  EXPECT_TRUE(v3.eos_token_id.empty());
  EXPECT_FALSE(v3.quantization);
  j["model_type"] = "deepseek_v2";
  const HfConfig v2 = parse(j.dump());
  EXPECT_EQ(v2.scoring_func, "softmax");
  EXPECT_EQ(v2.topk_method, "greedy");
  EXPECT_FALSE(v2.norm_topk_prob);
  EXPECT_EQ(v2.routed_scaling_factor, 1);
}

TEST(HfConfig, AcceptsVariants) {
  EXPECT_EQ(parse(v3_with({{"model_type", "kimi_k2"}})).model_type, "deepseek_v3");
  EXPECT_EQ(parse(v3_without("model_type")).model_type, "deepseek_v3");
  EXPECT_EQ(parse(v3_with({{"q_lora_rank", 0}})).q_lora_rank, 0);
  EXPECT_EQ(parse(v3_with({{"eos_token_id", {1, 2}}})).eos_token_id, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(parse(v3_with({{"rope_scaling",
                            {{"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 64}}}}))
                .yarn,
            (HfYarn{4, 32, 1, 1, 0, 64}));
  EXPECT_FALSE(parse(v3_with({{"rope_scaling", {{"type", "default"}}}})).yarn);
  const Json ue8m0 = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}, {"scale_fmt", "ue8m0"}};
  EXPECT_EQ(parse(v3_with({{"quantization_config", ue8m0}})).quantization, (HfQuantization{128, 128, "ue8m0"}));
  const HfConfig dense = parse(v3_with({{"n_routed_experts", nullptr}}));
  EXPECT_EQ(dense.n_routed_experts, 0);
  EXPECT_EQ(dense.num_experts_per_tok, 0);
  EXPECT_EQ(parse(write_hf_config(dense)), dense);
}

using Refused = std::pair<Json, const char*>;

/// Each change to V3's configuration is refused with a message that holds the text.
void expect_refused(const std::vector<Refused>& cases) {
  for (const auto& c : cases) {
    const std::string text = error_of([&] { parse(v3_with(c.first)); });
    EXPECT_NE(text.find(c.second), std::string::npos) << c.first << "\n  gives: " << text;
    EXPECT_TRUE(text.starts_with("config.json: ")) << text;
  }
}

TEST(HfConfig, RefusesBadSizesAndChoices) {
  expect_refused({
      {{{"model_type", "llama"}}, "model_type: expected deepseek_v3 or deepseek_v2 or kimi_k2, found \"llama\""},
      {{{"vocab_size", 0}}, "vocab_size: expected an integer from 1 to 2147483647, found 0"},
      {{{"vocab_size", -1}}, "vocab_size: expected an integer from 1 to 2147483647, found -1"},
      {{{"vocab_size", 2147483648}}, "vocab_size: expected an integer"},
      {{{"vocab_size", UINT64_MAX}},
       "vocab_size: expected an integer from 1 to 2147483647, found 18446744073709551615"},
      {{{"vocab_size", 1.5}}, "vocab_size: expected an integer from 1 to 2147483647, found 1.5"},
      {{{"vocab_size", "1"}}, "vocab_size: expected an integer from 1 to 2147483647, found \"1\""},
      {{{"vocab_size", nullptr}}, "vocab_size: expected an integer from 1 to 2147483647, found null"},
      {{{"vocab_size", true}}, "found true"},
      {{{"hidden_size", Json::array()}}, "hidden_size: expected an integer"},
      {{{"num_hidden_layers", 5000}}, "num_hidden_layers: expected an integer from 1 to 4096"},
      {{{"moe_layer_freq", 0}}, "moe_layer_freq"},
      {{{"moe_layer_freq", {0, 1}}}, "moe_layer_freq"},
      {{{"qk_rope_head_dim", 63}}, "qk_rope_head_dim: expected an even number, found 63"},
      {{{"n_group", 7}}, "n_group: expected a divisor of n_routed_experts 256, found 7"},
      {{{"n_group", 256}}, "n_group: expected at least 2 experts in a group"},
      {{{"topk_group", 9}}, "topk_group: expected an integer from 1 to 8, found 9"},
      {{{"num_experts_per_tok", 129}}, "num_experts_per_tok: expected an integer from 1 to 128, found 129"},
      {{{"num_experts_per_tok", 0}}, "num_experts_per_tok"},
      {{{"n_routed_experts", 100000}}, "n_routed_experts"},
      {{{"scoring_func", "softmax"}}, "scoring_func: expected sigmoid (topk_method noaux_tc), found softmax"},
      {{{"scoring_func", "tanh"}}, "scoring_func: expected sigmoid or softmax, found \"tanh\""},
      {{{"topk_method", "best"}}, "topk_method: expected noaux_tc or"},
      {{{"norm_topk_prob", 1}}, "norm_topk_prob: expected true or false, found 1"},
      {{{"routed_scaling_factor", 0}}, "routed_scaling_factor: expected a number from 1e-06 to 1000000"},
      {{{"rms_norm_eps", -1}}, "rms_norm_eps"},
      {{{"rms_norm_eps", "1e-6"}}, "rms_norm_eps: expected a number"},
      {{{"rope_theta", 0}}, "rope_theta"},
      {{{"initializer_range", -0.1}}, "initializer_range"},
      {{{"attention_bias", true}}, "attention_bias: expected false, found true (not supported)"},
      {{{"mlp_bias", true}}, "mlp_bias: expected false, found true (not supported)"},
      {{{"tie_word_embeddings", true}}, "tie_word_embeddings: expected false, found true (not supported)"},
      {{{"rope_interleave", false}},
       "rope_interleave: expected true, found false (half-split RoPE rows are not supported)"},
      {{{"hidden_act", "gelu"}}, "hidden_act: expected silu, found \"gelu\""},
  });
}

TEST(HfConfig, RefusesBadScalingQuantisationAndTokens) {
  const Json yarn = {{"type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 64}};
  const auto yarn_with = [&](const char* key, const Json& value) {
    Json y = yarn;
    y[key] = value;
    return Json{{"rope_scaling", y}};
  };
  expect_refused({
      {{{"rope_scaling", 4}}, "rope_scaling: expected an object, found 4"},
      {{{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}}, "rope_scaling: rope_type: expected yarn or default"},
      {yarn_with("rope_type", "default"), "rope_scaling: type: expected default (as rope_type)"},
      {yarn_with("factor", nullptr), "rope_scaling: factor: expected a number, found nothing"},
      {yarn_with("factor", 0.5), "rope_scaling: factor: expected a number from 1"},
      {yarn_with("beta_slow", 64), "rope_scaling: beta_fast: expected at least beta_slow 64, found 32"},
      {yarn_with("original_max_position_embeddings", nullptr), "rope_scaling: original_max_position_embeddings"},
      {yarn_with("attention_factor", 1.0), "rope_scaling: attention_factor"},
      {yarn_with("truncate", false), "rope_scaling: truncate"},
      {{{"rope_parameters", yarn}}, "expected rope_parameters or rope_scaling, found both"},
      {{{"rope_scaling", nullptr}, {"rope_parameters", {{"rope_theta", 3}}}},
       "rope_parameters: rope_theta: expected 10000 (as outside), found 3"},
      {{{"quantization_config", {{"quant_method", "awq"}}}}, "quantization_config: quant_method: expected fp8"},
      {{{"quantization_config", {{"quant_method", "fp8"}}}}, "weight_block_size: expected two integers"},
      {{{"quantization_config", {{"quant_method", "fp8"}, {"weight_block_size", {0, 128}}}}}, "found [0,128]"},
      {{{"quantization_config", {{"quant_method", "fp8"}, {"weight_block_size", {128}}}}}, "found [128]"},
      {{{"quantization_config", {{"quant_method", "fp8"}, {"fmt", "e5m2"}}}}, "fmt: expected e4m3"},
      {{{"quantization_config", {{"quant_method", "fp8"}, {"activation_scheme", "static"}}}}, "activation_scheme"},
      {{{"eos_token_id", -1}}, "eos_token_id: expected token ids"},
      {{{"eos_token_id", {1, "a"}}}, "eos_token_id: expected token ids"},
      {{{"bos_token_id", {1, 2}}}, "bos_token_id: expected one token id, found 2"},
      {{{"torch_dtype", 3}}, "torch_dtype: expected a string, found 3"},
      {{{"num_attention_heads", 2147483647}}, "num_attention_heads x"},
      {{{"moe_intermediate_size", 2147483647}, {"n_shared_experts", 2}}, "n_shared_experts x moe_intermediate_size"},
      {{{"num_hidden_layers", 4096}, {"n_routed_experts", 32768}}, "num_hidden_layers x n_routed_experts"},
      {{{"hidden_size", 2147483647}, {"intermediate_size", 2147483647}}, "fewer than 2^60 parameters"},
  });
}

TEST(HfConfig, RefusesMissingFields) {
  for (const char* key :
       {"vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers",
        "num_attention_heads", "n_routed_experts", "num_experts_per_tok", "q_lora_rank", "kv_lora_rank",
        "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "max_position_embeddings"}) {
    const std::string text = error_of([&] { parse(v3_without(key)); });
    EXPECT_NE(text.find(fmt::format("config.json: {}: ", key)), std::string::npos) << text;
    EXPECT_NE(text.find("found nothing"), std::string::npos) << text;
  }
  EXPECT_NE(error_of([&] { parse(R"({"architectures":["X"]})"); }).find("model_type"), std::string::npos);
}

TEST(HfConfig, RefusesMalformedFiles) {
  const std::string good = v3_with(Json::object());
  for (const std::string& bad :
       {std::string(), std::string("[]"), good.substr(0, good.size() / 2), good + "x",
        "{\"a\":1," + good.substr(0, 1) + "}", std::string("{\"vocab_size\":1,\"vocab_size\":2}"),
        std::string(100000, '['), std::string(2 << 20, ' ')}) {
    const std::string text = error_of([&] { parse(bad); });
    EXPECT_TRUE(text.starts_with("config.json: ")) << bad.substr(0, 80);
  }
}

TEST(HfConfig, GenerationConfig) {
  const HfGeneration g = parse_hf_generation(
      R"({"_from_model_config":true,"bos_token_id":0,"eos_token_id":1,"do_sample":true,"temperature":0.6,"top_p":0.95,"min_p":0.05,"repetition_penalty":1.1,"transformers_version":"4.46.3"})",
      "generation_config.json");
  EXPECT_EQ(g, (HfGeneration{0, {1}, 0.6, 0.95, 0.05, 1.1}));
  EXPECT_EQ(parse_hf_generation(write_hf_generation(g), "g"), g);
  const HfGeneration none = parse_hf_generation("{}", "g");
  EXPECT_EQ(none, HfGeneration{});
  EXPECT_EQ(parse_hf_generation(write_hf_generation(none), "g"), none);
  EXPECT_EQ(Json::parse(write_hf_generation(g))["do_sample"], true);
  EXPECT_FALSE(Json::parse(write_hf_generation(none)).contains("do_sample"));
}

TEST(HfConfig, GenerationConfigKeepsEveryFieldAlone) {
  for (const char* text :
       {R"({"bos_token_id":3})", R"({"eos_token_id":[4,5]})", R"({"temperature":0.0})", R"({"top_p":1.0})",
        R"({"min_p":0.0})", R"({"min_p":1.0})", R"({"repetition_penalty":0.5})"}) {
    Json written = Json::parse(write_hf_generation(parse_hf_generation(text, "g")));
    for (const char* id : {"bos_token_id", "eos_token_id"})  // null where there is none
      if (written[id].is_null()) written.erase(id);
    EXPECT_EQ(written, Json::parse(text));
  }
}

TEST(HfConfig, GenerationConfigRefusesBadValues) {
  for (const auto& [text, field] :
       std::vector<std::pair<std::string, std::string>>{{"", ""},
                                                        {"3", ""},
                                                        {R"({"temperature":-1})", "temperature: "},
                                                        {R"({"top_p":0})", "top_p: "},
                                                        {R"({"top_p":1.5})", "top_p: "},
                                                        {R"({"min_p":-0.1})", "min_p: "},
                                                        {R"({"min_p":1.1})", "min_p: "},
                                                        {R"({"min_p":"0.1"})", "min_p: "},
                                                        {R"({"repetition_penalty":0})", "repetition_penalty: "},
                                                        {R"({"repetition_penalty":-1.1})", "repetition_penalty: "},
                                                        {R"({"repetition_penalty":true})", "repetition_penalty: "},
                                                        {R"({"eos_token_id":"a"})", "eos_token_id: "}}) {
    const std::string message = error_of([&, &t = text] { parse_hf_generation(t, "g"); });
    EXPECT_TRUE(message.starts_with("g: " + field)) << text << " gives: " << message;
  }
}

}  // namespace
}  // namespace sluice
