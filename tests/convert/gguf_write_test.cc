// Models written as GGUF files and read again.
#include "convert/gguf_write.h"

#include <cstring>

#include "base/temp_dir.h"
#include "convert/gguf_config.h"
#include "convert/gguf_model.h"
#include "convert/gguf_rows.h"
#include "convert/source.h"
#include "engine/session.h"
#include "model/tiny_model.h"
#include "ops/block_quant.h"

namespace sluice {
namespace {

using test::grouped_config;
using test::tiny_config;
using test::v2_config;

/// Rows of whole blocks of 256 in most matrices, of 32 in others.
HfConfig blocks_config() {
  HfConfig c = tiny_config();
  c.hidden_size = 256;
  c.intermediate_size = 96;
  c.moe_intermediate_size = 40;
  c.kv_lora_rank = 256;
  c.qk_nope_head_dim = 32;
  c.v_head_dim = 128;
  c.num_hidden_layers = 2;
  c.n_routed_experts = 3;
  c.initializer_range = 0.1;
  return c;
}

/// V3 in everything that GGUF has keys for.
HfConfig full_config() {
  HfConfig c = grouped_config();
  c.moe_layer_freq = 1;
  c.first_k_dense_replace = 1;
  c.yarn->mscale = c.yarn->mscale_all_dim;
  c.num_nextn_predict_layers = 1;
  c.bos_token_id = 3;
  c.eos_token_id = {4, 7};
  return c;
}

class GgufWrite : public testing::Test {
 protected:
  fs::path write(const HfConfig& c, Format format, const RowEncoder& rows, const std::string& name = "m.gguf",
                 int threads = 2) {
    Stream s(threads);
    write_gguf(s, dir_ / name, {c, std::nullopt}, format, rows);
    return dir_ / name;
  }
  RowEncoder rounded(const HfConfig& c, const Importance* importance = nullptr) const {
    return rounded_rows(c, test::uneven_rows(c, 1), importance);
  }
  Stream s_{2};
  TempDir dir_;
};

std::vector<float> all_rows(const RowSource& source, const Param& p) {
  std::vector<float> rows(static_cast<size_t>(p.matrix->size()));
  source(p, 0, p.matrix->rows, rows.data());
  return rows;
}

std::vector<float> logits(Stream& s, const Model& m) {
  Engine engine(s, m, {64, 0});
  Session session(engine, false);
  const std::vector<int32_t> ids{1, 5, 9, 2, 28, 0, 7};
  const Tensor rows = session.feed(ids, static_cast<int64_t>(ids.size()));
  return {rows.f32(), rows.f32() + rows.size()};
}

TEST_F(GgufWrite, Float32SurvivesTheRoundTrip) {
  for (const HfConfig& c : {tiny_config(), v2_config(), full_config()}) {
    const CheckpointSource back = open_checkpoint(write(c, Format::f32, rounded(c)));
    EXPECT_EQ(back.precision, Precision::f32);
    EXPECT_FALSE(back.tokenizer);
    HfConfig config = back.config;
    config.initializer_range = c.initializer_range;  // GGUF has no key for what is not part of the model
    EXPECT_EQ(write_hf_config(config), write_hf_config(c));

    const RowSource expected = test::uneven_rows(c, 1);
    ModelWeights shapes = weight_shapes(c, c.num_nextn_predict_layers);
    for (const Param& p : parameters(shapes)) {
      ASSERT_EQ(all_rows(back.rows, p), all_rows(expected, p)) << p.name;
      std::vector<float> row(static_cast<size_t>(p.matrix->cols));
      const int64_t last = p.matrix->rows - 1;  // the halves of kv_b: any row can be read alone
      back.rows(p, last, 1, row.data());
      EXPECT_EQ(0, std::memcmp(row.data(), all_rows(expected, p).data() + last * p.matrix->cols, row.size() * 4));
    }
    const Model m = load_gguf_model(s_, std::make_shared<GgufFile>(dir_ / "m.gguf"));
    EXPECT_EQ(m.weights.mtp.size(), static_cast<size_t>(c.num_nextn_predict_layers));
    EXPECT_EQ(logits(s_, m), logits(s_, test::random_model(s_, c, c.num_nextn_predict_layers)));
  }
}

TEST_F(GgufWrite, TypesFollowTheRows) {
  const HfConfig c = blocks_config();
  const GgufFile file(write(c, Format::q4_k, rounded(c)));
  const auto type = [&](const char* name) { return ggml_type_info(file.get(name).type).name; };
  EXPECT_EQ(type("token_embd.weight"), "Q4_K");
  EXPECT_EQ(type("output.weight"), "Q6_K");
  EXPECT_EQ(type("output_norm.weight"), "F32");
  EXPECT_EQ(type("blk.1.ffn_gate_inp.weight"), "F32");
  EXPECT_EQ(type("blk.1.exp_probs_b.bias"), "F32");
  EXPECT_EQ(type("blk.1.ffn_up_exps.weight"), "Q4_K");
  EXPECT_EQ(type("blk.1.ffn_down_exps.weight"), "F16");  // rows of 40
  EXPECT_EQ(type("blk.0.ffn_down.weight"), "Q5_0");      // rows of 96
  EXPECT_EQ(type("blk.0.attn_k_b.weight"), "Q5_0");
  EXPECT_EQ(type("blk.0.attn_v_b.weight"), "Q4_K");
  EXPECT_EQ(file.get("blk.0.attn_k_b.weight").dims, (std::vector<int64_t>{32, 256, 2}));
  EXPECT_EQ(file.get("blk.0.attn_v_b.weight").dims, (std::vector<int64_t>{256, 128, 2}));
  EXPECT_EQ(file.get("blk.1.ffn_up_exps.weight").dims, (std::vector<int64_t>{256, 40, 3}));
  EXPECT_EQ(file.metadata().get<int64_t>("deepseek2.attention.head_count_kv"), 1);
  for (const auto& [format, other] : {std::pair{Format::q2_k, Format::iq4_nl},
                                      {Format::q3_k, Format::iq4_nl},
                                      {Format::q5_k, Format::q5_1},
                                      {Format::q6_k, Format::q8_0}}) {
    EXPECT_EQ(fitting_format(format, 512), format);
    EXPECT_EQ(fitting_format(format, 96), other);
    EXPECT_EQ(fitting_format(format, 40), Format::f16);
  }
}

TEST_F(GgufWrite, EveryRowIsRoundedOnItsOwn) {
  const HfConfig c = blocks_config();
  for (const Format format : {Format::bf16, Format::f16, Format::q8_0, Format::q6_k, Format::q4_k, Format::q2_k}) {
    const CheckpointSource back = open_checkpoint(write(c, format, rounded(c)));
    EXPECT_EQ(back.precision, Precision::bf16);
    ModelWeights shapes = weight_shapes(c, 0);
    for (const Param& p : parameters(shapes)) {
      if (p.name.ends_with("kv_b_proj.weight") || p.kind != ParamKind::linear) continue;
      std::vector<float> expected = all_rows(test::uneven_rows(c, 1), p);
      const int64_t cols = p.matrix->cols;
      const Format f = fitting_format(format, cols);
      std::vector<std::byte> row(static_cast<size_t>(row_bytes(f, cols)));
      for (int64_t r = 0; r < p.matrix->rows; ++r) {
        quantize_row(expected.data() + r * cols, f, cols, nullptr, row.data());
        dequantize_row(row.data(), f, cols, expected.data() + r * cols);
      }
      EXPECT_EQ(all_rows(back.rows, p), expected) << format_name(format) << " " << p.name;
    }
  }
}

TEST_F(GgufWrite, DoesNotDependOnThreads) {
  const HfConfig c = blocks_config();
  for (const Format format : {Format::f32, Format::q4_k})
    for (const RowEncoder& rows : {rounded(c), random_encoder(c, 7)}) {
      const std::string one = read_file(write(c, format, rows, "a.gguf", 1));
      EXPECT_TRUE(one == read_file(write(c, format, rows, "b.gguf", 5)));
      EXPECT_FALSE(one == read_file(write(c, format, random_encoder(c, 8), "c.gguf")));
    }
}

TEST_F(GgufWrite, RandomModelsHaveTheSpreadThatIsAsked) {
  const HfConfig c = blocks_config();
  const std::string plain = read_file(write(c, Format::bf16, random_encoder(c, 3)));
  EXPECT_TRUE(plain == read_file(write(c, Format::bf16, rounded_rows(c, random_rows(c, 3), nullptr))));
  const CheckpointSource source = open_checkpoint(write(c, Format::q8_0, random_encoder(c, 3)));
  ModelWeights shapes = weight_shapes(c, 0);
  std::vector<float> first;
  for (const Param& p : parameters(shapes)) {
    const std::vector<float> x = all_rows(source.rows, p);
    if (p.kind == ParamKind::norm) {
      EXPECT_EQ(x, std::vector<float>(x.size(), 1));
    }
    if (p.matrix->size() < 10000) continue;
    double squares = 0;
    for (const float v : x) squares += static_cast<double>(v) * v;
    EXPECT_NEAR(std::sqrt(squares / static_cast<double>(x.size())), 0.1, 0.004) << p.name;
    EXPECT_NE(x[0], first.empty() ? 0 : first[0]) << p.name;
    first = x;
  }
}

TEST_F(GgufWrite, RefusesWhatGgufHasNoKeyFor) {
  HfConfig c = tiny_config();
  c.moe_layer_freq = 2;
  const std::string error = error_of([&] { write(c, Format::f32, rounded(c)); });
  EXPECT_NE(error.find("moe_layer_freq"), std::string::npos) << error;
  EXPECT_FALSE(fs::exists(dir_ / "m.gguf"));
}

TEST_F(GgufWrite, FindsTheOneFileOfAFolder) {
  const HfConfig c = tiny_config();
  EXPECT_FALSE(find_gguf(dir_.path()));
  EXPECT_FALSE(find_gguf(dir_ / "nowhere"));
  const fs::path file = write(c, Format::f32, rounded(c));
  EXPECT_EQ(find_gguf(file), file);
  EXPECT_EQ(find_gguf(dir_.path()), file);
  fs::copy(file, dir_ / "other.gguf");
  EXPECT_NE(error_of([&] { find_gguf(dir_.path()); }).find("found 2"), std::string::npos);
  write_file(dir_ / "config.json", "{}");
  EXPECT_FALSE(find_gguf(dir_.path()));
}

TEST_F(GgufWrite, NamesTheTensorThatIsWrong) {
  const HfConfig c = tiny_config();
  const fs::path file = write(c, Format::f32, rounded(c));
  std::string bytes = read_file(file);
  const std::string name = "blk.1.ffn_up_exps.weight";
  bytes.replace(bytes.find(name), name.size(), "blk.1.ffn_xx_exps.weight");
  write_file(file, bytes);
  const std::string error = error_of([&] { load_gguf_model(s_, std::make_shared<GgufFile>(file)); });
  EXPECT_NE(error.find(name), std::string::npos) << error;
}

}  // namespace
}  // namespace sluice
