// FP8 checkpoints to BF16 and back.
#include <cmath>
#include <cstring>

#include "base/temp_dir.h"
#include "convert/source.h"
#include "model/tiny_model.h"

namespace sluice {
namespace {

class Fp8RoundTrip : public testing::Test {
 protected:
  /// Writes the checkpoint in `from` to `to` in another precision.
  fs::path rewrite(const fs::path& from, const std::string& to, Precision precision) {
    const CheckpointSource source = open_checkpoint(from);
    ModelWeights shapes = weight_shapes(source.config, source.config.num_nextn_predict_layers);
    fs::create_directory(dir_ / to);
    save_checkpoint(s_, dir_ / to, source.config, shapes, precision, source.rows);
    return dir_ / to;
  }
  Stream s_{2};
  TempDir dir_;
};

/// Whether the tensors of both have the same bytes; those of other types than `dtype` are left out.
void expect_same(const fs::path& a, const fs::path& b, StDType dtype) {
  const SafetensorsFolder x(a), y(b);
  int compared = 0;
  for (const SafetensorsEntry* e : x.entries()) {
    if (e->dtype != dtype || e->name.ends_with("e_score_correction_bias")) continue;
    const SafetensorsEntry& other = y.get(e->name);
    ASSERT_EQ(e->dtype, other.dtype) << e->name;
    EXPECT_EQ(0, std::memcmp(e->bytes.data(), other.bytes.data(), e->bytes.size())) << e->name;
    ++compared;
  }
  EXPECT_GT(compared, 10);
}

// Codes come back from BF16 whatever the scales were: the largest code of a block is 448, rounding to BF16 moves a
// value and the scale by 2^-9 each, and half the distance between codes is more than 2^-5 of them. The scales, amax /
// 448, come back bit for bit where amax was a BF16 number, so of every FP8 checkpoint that was made from a BF16 one:
// 448 times the rounded quotient is amax but for a rounding of float32, which disappears in BF16. The amax of float32
// weights, as in the golden checkpoint, is lost in BF16; its scales come back within 2^-8, and from then on bit for
// bit.
TEST_F(Fp8RoundTrip, CodesOfTheGoldenCheckpoint) {
  const fs::path golden = fs::path(SLUICE_SOURCE_DIR) / "tests/golden/hf/fp8";
  const fs::path bf16 = rewrite(golden, "bf16", Precision::bf16), back = rewrite(bf16, "back", Precision::fp8);
  expect_same(golden, back, StDType::f8_e4m3);
  expect_same(golden, back, StDType::bf16);
  const SafetensorsFolder before(golden), after(back);
  for (const SafetensorsEntry* e : before.entries()) {
    if (!e->name.ends_with("_scale_inv")) continue;
    const std::vector<float> x = e->read_f32(), y = after.get(e->name).read_f32();
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(y[i], x[i], x[i] / 256) << e->name;
  }
  const fs::path bf16_again = rewrite(back, "bf16-again", Precision::bf16);
  const fs::path again = rewrite(bf16_again, "again", Precision::fp8);
  expect_same(back, again, StDType::f8_e4m3);
  expect_same(back, again, StDType::f32);
}

TEST_F(Fp8RoundTrip, EverythingOfACheckpointMadeFromBf16) {
  HfConfig c = test::tiny_config();
  c.hidden_size = 200;
  c.intermediate_size = 300;
  c.moe_intermediate_size = 130;
  c.num_nextn_predict_layers = 1;
  for (const double spread : {0.02, 3.0, 1e-5}) {  // the last one: below the least scale
    c.initializer_range = spread;
    ModelWeights shapes = weight_shapes(c, 1);
    for (const char* name : {"original", "fp8", "bf16", "back"}) fs::remove_all(dir_ / name);
    fs::create_directory(dir_ / "original");
    save_checkpoint(s_, dir_ / "original", c, shapes, Precision::bf16, random_rows(c, 1));
    const fs::path fp8 = rewrite(dir_ / "original", "fp8", Precision::fp8);
    const fs::path back = rewrite(rewrite(fp8, "bf16", Precision::bf16), "back", Precision::fp8);
    EXPECT_TRUE(read_file(fp8 / "model.safetensors") == read_file(back / "model.safetensors")) << spread;
    EXPECT_EQ(read_file(fp8 / "config.json"), read_file(back / "config.json"));
  }
}

}  // namespace
}  // namespace sluice
