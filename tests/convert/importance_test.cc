#include "convert/importance.h"

#include <gtest/gtest.h>

#include "base/temp_dir.h"
#include "convert/gguf_write.h"
#include "formats/gguf_writer.h"
#include "ops/block_quant.h"

namespace sluice {
namespace {

void add(Importance& importance, const char* tensor, int64_t index, int64_t matrices, std::vector<float> x) {
  importance.add(tensor, index, matrices, Tensor(x.data(), {1, static_cast<int64_t>(x.size())}));
}

TEST(Importance, SurvivesTheRoundTripInTheOtherToolsForm) {
  TempDir dir;
  Importance importance;
  add(importance, "blk.0.ffn_up.weight", 0, 1, {1, -2});
  add(importance, "blk.0.ffn_up.weight", 0, 1, {3, 0});
  add(importance, "blk.1.ffn_up_exps.weight", 2, 3, {0.5f, 4});
  save_importance(dir / "i.gguf", importance, "text.txt", 512, 7);

  const GgufFile file(dir / "i.gguf");
  EXPECT_EQ(file.metadata().get<std::string_view>("general.type"), "imatrix");
  EXPECT_EQ(file.metadata().get<std::vector<std::string_view>>("imatrix.datasets")[0], "text.txt");
  EXPECT_EQ(file.metadata().get<int64_t>("imatrix.chunk_count"), 7);
  EXPECT_EQ(file.metadata().get<int64_t>("imatrix.chunk_size"), 512);
  EXPECT_EQ(file.get("blk.1.ffn_up_exps.weight.in_sum2").dims, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(file.get("blk.1.ffn_up_exps.weight.counts").dims, (std::vector<int64_t>{1, 3}));

  const Importance back = load_importance(dir / "i.gguf");
  EXPECT_EQ(back.find("blk.0.ffn_up.weight", 0, 1, 2), (std::vector<float>{5, 2}));
  EXPECT_EQ(back.find("blk.1.ffn_up_exps.weight", 2, 3, 2), (std::vector<float>{0.25f, 16}));
  EXPECT_TRUE(back.find("blk.1.ffn_up_exps.weight", 0, 3, 2).empty());  // no row came
  EXPECT_TRUE(back.find("output.weight", 0, 1, 2).empty());
  const std::string error = error_of([&] { back.find("blk.0.ffn_up.weight", 0, 1, 3); });
  EXPECT_NE(error.find("i.gguf: blk.0.ffn_up.weight: expected 3 inputs"), std::string::npos) << error;
}

TEST(Importance, NamesWhatIsWrongInAFile) {
  TempDir dir;
  const auto error = [&](const std::vector<GgufSpec>& specs, float value) {
    GgufWriter writer(dir / "i.gguf", {}, specs);
    for (const GgufSpec& spec : specs) {
      const std::vector<float> values(spec.bytes() / sizeof(float), value);
      writer.write(std::as_bytes(std::span(values)));
    }
    writer.commit();
    return error_of([&] { load_importance(dir / "i.gguf"); });
  };
  const GgufSpec sums{"a.in_sum2", GgmlType::f32, {4, 2}};
  EXPECT_EQ(error({sums, {"a.counts", GgmlType::f32, {1, 2}}}, 1), "");
  EXPECT_NE(error({sums, {"a.counts", GgmlType::f32, {1, 3}}}, 1).find("a.counts: expected 2 counts"),
            std::string::npos);
  EXPECT_NE(error({sums}, 1).find("\"a.counts\""), std::string::npos);
  EXPECT_NE(error({sums, {"a.counts", GgmlType::f32, {1, 2}}}, -1).find("a.in_sum2"), std::string::npos);
  EXPECT_NE(error({{"a", GgmlType::f32, {4}}}, 1).find("importance matrix"), std::string::npos);
}

TEST(Importance, WeighsTheErrorsOfEachExpert) {
  HfConfig c;
  c.n_routed_experts = 2;
  Matrix m;
  m.rows = 16;
  m.cols = 256;
  GgufOutput t;
  t.spec = {"x", GgmlType::q2_k, {256, 16, 2}};
  t.format = Format::q2_k;
  t.params = {{"a", &m, ParamKind::linear}, {"b", &m, ParamKind::linear}};
  Importance importance;  // of expert 1 only, of whose inputs every fourth matters
  std::vector<float> x(256, 0.1f);
  for (size_t i = 0; i < x.size(); i += 4) x[i] = 10;
  add(importance, "x", 1, 2, x);
  const RowSource rows = random_rows(c, 1);
  const auto encode = [&](const Importance* with, int64_t index) {
    std::vector<std::byte> bytes(static_cast<size_t>(16 * row_bytes(t.format, 256)));
    rounded_rows(c, rows, with)(t, index, 0, 16, bytes.data());
    return bytes;
  };
  const auto error = [&](const std::vector<std::byte>& bytes) {
    std::vector<float> value(256), source(16 * 256);
    rows(t.params[1], 0, 16, source.data());
    double sum = 0;
    for (int64_t r = 0; r < 16; ++r) {
      dequantize_row(bytes.data() + r * row_bytes(t.format, 256), t.format, 256, value.data());
      for (size_t i = 0; i < 256; ++i) {
        const double d = static_cast<double>(value[i]) - source[static_cast<size_t>(r) * 256 + i];
        sum += static_cast<double>(x[i]) * x[i] * d * d;
      }
    }
    return sum;
  };
  EXPECT_TRUE(encode(&importance, 0) == encode(nullptr, 0));
  EXPECT_LT(error(encode(&importance, 1)), 0.9 * error(encode(nullptr, 1)));
}

}  // namespace
}  // namespace sluice
