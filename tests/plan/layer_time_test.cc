#include "plan/layer_time.h"

#include "fixture.h"
#include "model/config.h"
#include "model/size.h"
#include "plan/overlap.h"

namespace sluice {
namespace {

constexpr double kTflops = 100;

ClusterConfig even_machine() {
  ClusterConfig c = published_cluster();
  c.peak_fp8_tflops = c.peak_bf16_tflops = kTflops;
  return c;
}

Compute computing(const LayerTime& t) {
  Compute sum;
  for (const Compute& c :
       {t.attention_forward, t.attention_input, t.attention_weight, t.ffn_forward, t.ffn_input, t.ffn_weight})
    sum += c;
  return sum;
}

/// At one speed for everything, products and attention take what the model's operations take, and what is recomputed:
/// the up-projections of MLA once, the scores in the backward pass of attention.
TEST(LayerTime, OperationsAreThoseOfTheModel) {
  const HfConfig c = published_model();
  const ClusterConfig cluster = even_machine();
  const Measurements none;
  const Rates rates(cluster, none);
  const MicroShape shape{4096, 4096, 64};
  Compute sum;
  for (int64_t l = 0; l < c.num_hidden_layers; ++l)
    sum += computing(layer_time(c, is_moe_layer(c, l) ? LayerKind::experts : LayerKind::dense, shape, cluster, rates));
  sum += computing(layer_time(c, LayerKind::experts, shape, cluster, rates));
  sum += computing(mtp_input_time(c, shape, rates));
  for (int i = 0; i < 2; ++i) sum += computing(head_time(c, shape, rates));
  const double layers = 62, keys = 4097.0 / 2, heads = 128;
  const double recomputed = layers * 2 * (24576.0 * 1536 + 32768.0 * 512);
  const double attention = layers * heads * keys * 2 * ((192 + 128) + (3 * 192 + 2 * 128));
  const double counted_attention = layers * heads * keys * 6 * (192 + 128);
  const double products = training_flops_per_token(c, 1, 4096) - counted_attention + recomputed;
  EXPECT_NEAR(sum.products * kTflops * 1e12 / 4096, products, 1e-9 * products);
  EXPECT_NEAR(sum.attention * kTflops * 1e12 / 4096, attention, 1e-9 * attention);
}

TEST(LayerTime, DenseLayersTransferNothing) {
  const ClusterConfig cluster = even_machine();
  const Measurements none;
  const Rates rates(cluster, none);
  const LayerTime dense = layer_time(published_model(), LayerKind::dense, {4096, 4096, 64}, cluster, rates);
  const LayerTime experts = layer_time(published_model(), LayerKind::experts, {4096, 4096, 64}, cluster, rates);
  EXPECT_EQ(dense.dispatch + dense.combine + dense.gradient_out + dense.gradient_back, 0);
  EXPECT_NEAR(experts.combine / experts.dispatch, 2 / (1 + 4.0 / 128), 1e-12);
  EXPECT_EQ(experts.gradient_out, experts.dispatch);
  EXPECT_EQ(layer_time(published_model(), LayerKind::experts, {4096, 4096, 1}, cluster, rates).dispatch, 0);
}

TEST(LayerTime, SequencesSpreadOverGpusExpandAllKeys) {
  const ClusterConfig cluster = even_machine();
  const Measurements none;
  const Rates rates(cluster, none);
  const LayerTime one = layer_time(published_model(), LayerKind::dense, {4096, 4096, 64}, cluster, rates);
  const LayerTime eight = layer_time(published_model(), LayerKind::dense, {4096, 32768, 64}, cluster, rates);
  EXPECT_NEAR(eight.attention_forward.attention / one.attention_forward.attention, 32769.0 / 4097, 1e-9);
  const double expanded = 2.0 * 4096 * 7 * 32768 * 512 / (kTflops * 1e12);
  EXPECT_NEAR(eight.attention_forward.products - one.attention_forward.products, expanded, 1e-9 * expanded);
  EXPECT_GT(eight.attention_forward.elementwise, one.attention_forward.elementwise);
}

/// A layer whose phases take 1 second each and whose transfers take `transfer`.
LayerTime simple_layer(double transfer) {
  const Compute second{.products = 1};
  LayerTime t{second, second, second, second, second, second};
  t.dispatch = t.combine = t.gradient_out = t.gradient_back = transfer;
  return t;
}

TEST(Overlap, AForwardAloneWaitsForItsTransfers) {
  const std::vector<LayerTime> layers(3, simple_layer(0.5));
  const ActionTime t = action_time({.forward = &layers});
  EXPECT_DOUBLE_EQ(t.computing, 6);
  EXPECT_DOUBLE_EQ(t.seconds, 9);
}

TEST(Overlap, WeightGradientsHideTransfersOfABackward) {
  const std::vector<LayerTime> layers(3, simple_layer(0.5));
  EXPECT_DOUBLE_EQ(action_time({.backward = &layers}).seconds, 9);
  const ActionTime full = action_time({.backward = &layers, .has_weights = true});
  EXPECT_DOUBLE_EQ(full.computing, 12);
  EXPECT_DOUBLE_EQ(full.seconds, 12.5);  // the first gradient
  EXPECT_DOUBLE_EQ(weight_seconds(layers), 6);
}

TEST(Overlap, APairHidesAllButTheEnds) {
  for (const double transfer : {0.25, 0.5, 1.0}) {
    const std::vector<LayerTime> layers(4, simple_layer(transfer));
    const ActionTime t = action_time({&layers, &layers, true, 1});
    EXPECT_DOUBLE_EQ(t.computing, 24);
    EXPECT_DOUBLE_EQ(t.seconds, 24) << transfer;
  }
  const std::vector<LayerTime> slow(4, simple_layer(5));  // longer than what hides them
  EXPECT_GE(action_time({&slow, &slow, true, 1}).seconds, 4 * 4 * 5);
}

TEST(Overlap, FewerMultiprocessorsComputeLonger) {
  const std::vector<LayerTime> layers(4, simple_layer(0));
  EXPECT_DOUBLE_EQ(action_time({&layers, &layers, true, 0.5}).seconds, 48);
  EXPECT_DOUBLE_EQ((Compute{.products = 1, .attention = 2, .elementwise = 4}).seconds(0.5), 10);
}

}  // namespace
}  // namespace sluice
