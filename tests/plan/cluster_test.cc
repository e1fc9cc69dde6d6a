#include "plan/cluster.h"

#include "fixture.h"
#include "plan/network.h"

namespace sluice {
namespace {

TEST(Cluster, NumbersOfTokens) {
  EXPECT_DOUBLE_EQ(parse_tokens("14.8T"), 14.8e12);
  EXPECT_DOUBLE_EQ(parse_tokens("630B"), 630e9);
  EXPECT_DOUBLE_EQ(parse_tokens("5M"), 5e6);
  EXPECT_DOUBLE_EQ(parse_tokens("1000k"), 1e6);
  EXPECT_DOUBLE_EQ(parse_tokens("125829120"), 125829120);
  for (const char* wrong : {"", "T", "-1T", "0", "nan", "inf", "1e30", "5 M", "5X", "1e12T", "0.5"})
    EXPECT_NE(error_of([&] { parse_tokens(wrong); }), "") << wrong;
}

TEST(Cluster, PhasesOfContextExtension) {
  for (const char* text : {"32768 x 1920 x 1000", "32768x1920x1000", " 32768 x1920 x 1000 "}) {
    const ExtensionPhase p = parse_extension(text);
    EXPECT_EQ(p.seq_len, 32768) << text;
    EXPECT_EQ(p.batch_size, 1920) << text;
    EXPECT_EQ(p.steps, 1000) << text;
  }
  for (const char* wrong : {"", "32768", "32768 x 1920", "32768 x 1920 x 1000 x 2", "0 x 1 x 1", "1 x -1 x 1",
                            "1 y 2 x 3", "99999999999999999999 x 1 x 1", "1 x 1 x 1 tokens"})
    EXPECT_NE(error_of([&] { parse_extension(wrong); }), "") << wrong;
}

TEST(Cluster, WrongFieldsAreNamed) {
  const auto error = [](const std::function<void(ClusterConfig&)>& change) {
    ClusterConfig c = published_cluster();
    change(c);
    return error_of([&] { check_cluster(c); });
  };
  EXPECT_EQ(error([](ClusterConfig&) {}), "");
  EXPECT_EQ(error([](ClusterConfig& c) { c.gpus = 0; }), "gpus: expected 1 to 1048576, found 0");
  EXPECT_EQ(error([](ClusterConfig& c) { c.gpus = 2047; }),
            "gpus: expected a multiple of gpus_per_node (8), found 2047");
  EXPECT_EQ(error([](ClusterConfig& c) { c.communication_sms = 132; }),
            "communication_sms: expected 0 to 131, found 132");
  EXPECT_EQ(error([](ClusterConfig& c) { c.gpu_memory_gb = -1; }),
            "gpu_memory_gb: expected 0.001 to 1000000, found -1");
  EXPECT_EQ(error([](ClusterConfig& c) { c.peak_fp8_tflops = std::nan(""); }),
            "peak_fp8_tflops: expected 0.001 to 1000000, found nan");
  EXPECT_NE(error([](ClusterConfig& c) { c.schedule = "gpipe"; }), "");
  EXPECT_NE(error([](ClusterConfig& c) { c.context_extension = {"1 x 2"}; }), "");
}

/// The published model on 64 ranks: eight experts among the 128 of four groups, each group on a node of its own.
TEST(Network, NodeLimitedRouting) {
  const Reach reach = expert_reach(published_model(), published_cluster(), 64);
  double none_of_32 = 1, none_of_4 = 1;
  for (int i = 0; i < 8; ++i) none_of_32 *= (96.0 - i) / (128 - i), none_of_4 *= (124.0 - i) / (128 - i);
  EXPECT_NEAR(reach.nodes, 4 * (1 - none_of_32), 1e-12);
  EXPECT_NEAR(reach.gpus, 32 * (1 - none_of_4), 1e-12);
  EXPECT_NEAR(reach.remote_nodes, reach.nodes * 7 / 8, 1e-12);
  EXPECT_LE(reach.nodes, 4);
}

TEST(Network, WithinANodeNothingIsRemote) {
  const Reach reach = expert_reach(published_model(), published_cluster(), 8);
  EXPECT_EQ(reach.remote_nodes, 0);
  EXPECT_DOUBLE_EQ(reach.nodes, 1);
  EXPECT_GT(reach.gpus, 3);
  EXPECT_LE(reach.gpus, 8);
  EXPECT_EQ(expert_reach(published_model(), published_cluster(), 1).gpus, 1);
}

TEST(Network, SecondsOfTransfers) {
  ClusterConfig c;
  c.nvlink_gb_per_second = 160, c.infiniband_gb_per_second = 50, c.gpus_per_node = 8;
  EXPECT_DOUBLE_EQ(all_to_all_seconds(c, {.nodes = 4, .gpus = 8, .remote_nodes = 3}, 1e6, 1000), 3 / 50.0);
  EXPECT_DOUBLE_EQ(all_to_all_seconds(c, {.nodes = 1, .gpus = 8, .remote_nodes = 0}, 1e6, 1000), 7 / 160.0);
  EXPECT_DOUBLE_EQ(reduce_seconds(c, 1e9, 1, 1), 0);
  EXPECT_DOUBLE_EQ(reduce_seconds(c, 1e9, 2, 1), 0.5 / 50);
  EXPECT_DOUBLE_EQ(reduce_seconds(c, 1e9, 8, 8), 7.0 / 8 / 160);
  EXPECT_DOUBLE_EQ(reduce_seconds(c, 1e9, 16, 8), 7.0 / 8 / 160 + 0.5 / 8 / 50);
}

}  // namespace
}  // namespace sluice
