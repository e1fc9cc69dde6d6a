#include "plan/memory.h"

#include <algorithm>
#include <array>

#include "model/config.h"
#include "parallel/simulate.h"
#include "plan/network.h"

namespace sluice {
namespace {

constexpr double kFp8 = 1 + 4.0 / 128;          // activations: a scale per 128
constexpr double kFp8Weight = 1 + 4.0 / 16384;  // a scale per 128 x 128
constexpr double kE5M6 = 1.5;
constexpr double kDevice = 2.147e9;  // the runtime's own, and scratch of attention (1 GiB each)

struct Parameters {
  double linear = 0, experts = 0, rest = 0;  // experts: of all ranks; rest: not in FP8
  void add_block(const BlockWeights& b) {
    const auto size = [](const Matrix& m) { return static_cast<double>(m.size()); };
    for (const Matrix* m : {&b.mla.q_proj, &b.mla.q_a, &b.mla.q_b, &b.mla.kv_a, &b.mla.kv_b, &b.mla.o, &b.dense.gate,
                            &b.dense.up, &b.dense.down, &b.moe.shared.gate, &b.moe.shared.up, &b.moe.shared.down})
      linear += size(*m);
    for (const Matrix* m : {&b.attn_norm, &b.ffn_norm, &b.mla.q_a_norm, &b.mla.kv_a_norm, &b.moe.router, &b.moe.bias})
      rest += size(*m);
    for (const auto* list : {&b.moe.gate, &b.moe.up, &b.moe.down})
      for (const Matrix& m : *list) experts += size(m);
  }
};

/// Bytes that the backward pass of a layer needs of a token: the residual before each half, latents, the attention's
/// output with its statistics, rows of experts in FP8 and the inputs of their SwiGLU.
double kept_bytes(const HfConfig& c, bool is_moe) {
  const double D = static_cast<double>(c.hidden_size), F = static_cast<double>(c.moe_intermediate_size);
  const double K = static_cast<double>(c.num_experts_per_tok), shared = static_cast<double>(c.n_shared_experts);
  const double heads = static_cast<double>(c.num_attention_heads);
  const double latents = static_cast<double>(c.q_lora_rank + c.kv_lora_rank + c.qk_rope_head_dim);
  const double attention = 4 * D + 2 * latents + heads * (kE5M6 * static_cast<double>(c.v_head_dim) + 4);
  if (!is_moe) return attention + kFp8 * 2 * static_cast<double>(c.intermediate_size);
  return attention + K * (kFp8 * D + 8) + kFp8 * 2 * F * (K + shared);
}

struct Stage {
  Parameters parameters;
  double kept = 0;  // bytes of a token
};

std::vector<Stage> stages_of(const HfConfig& c, const Layout& layout) {
  const ModelWeights w = weight_shapes(c, c.num_nextn_predict_layers);
  const std::vector<int64_t> first = first_layers(layout);
  std::vector<Stage> stages(layout.layers.size());
  for (size_t s = 0; s < stages.size(); ++s)
    for (int64_t l = first[s]; l < first[s + 1]; ++l) {
      stages[s].parameters.add_block(w.layers[static_cast<size_t>(l)]);
      stages[s].kept += kept_bytes(c, w.layers[static_cast<size_t>(l)].is_moe);
    }
  Stage& last = stages.back();
  const double D = static_cast<double>(c.hidden_size);
  last.parameters.rest += static_cast<double>(w.head.size() + w.norm.size());
  last.kept += 2 * D;
  for (const MtpWeights& m : w.mtp) {
    last.parameters.add_block(m.block);
    last.parameters.rest +=
        static_cast<double>(m.eh_proj.size() + m.enorm.size() + m.hnorm.size() + m.head_norm.size());
    last.kept += kept_bytes(c, m.block.is_moe) + 6 * D;
  }
  const double embedding = static_cast<double>(w.embed.size());
  stages.front().parameters.rest += embedding;
  // The MTP module embeds, too; with dualpipe its stage shares the rank, and the matrix, of the first.
  if (!w.mtp.empty() && stages.size() > 1 && layout.pipeline.chunks() == 1) last.parameters.rest += embedding;
  return stages;
}

/// Of one layer at work in each direction: q, k, v and their gradients, rows of experts before and behind SwiGLU.
double workspace_bytes(const HfConfig& c, double tokens) {
  const double D = static_cast<double>(c.hidden_size), heads = static_cast<double>(c.num_attention_heads);
  const double head = static_cast<double>(c.qk_nope_head_dim * 2 + c.qk_rope_head_dim + c.v_head_dim * 2);
  const double routed = static_cast<double>(c.num_experts_per_tok) * static_cast<double>(c.moe_intermediate_size);
  const double width = std::max(routed, static_cast<double>(c.intermediate_size));
  const double rows = std::max(static_cast<double>(c.num_experts_per_tok), 1.0);
  return tokens * 2 * (2 * heads * head + 2 * 3 * width + 2 * rows * D) + kDevice;
}

double buffer_bytes(const HfConfig& c, const ClusterConfig& cluster, const Layout& layout) {
  const double D = static_cast<double>(c.hidden_size), tokens = static_cast<double>(layout.micro_tokens);
  const double messages = layout.pipeline.ranks() > 1 ? 4 * 2 * D : 0;  // in and out of both directions
  if (layout.expert == 1) return tokens * messages;
  const Reach reach = expert_reach(c, cluster, layout.expert);
  return tokens * (messages + 2 * (kFp8 + 2) * D * (reach.gpus + reach.nodes));  // of a forward and a backward
}

}  // namespace

MemoryPlan plan_memory(const HfConfig& c, const ClusterConfig& cluster, const Layout& layout) {
  const std::vector<Stage> stages = stages_of(c, layout);
  const Holders holders = holders_of(layout);
  const double expert = static_cast<double>(layout.expert), tokens = static_cast<double>(layout.micro_tokens);
  MemoryPlan worst;
  for (int rank = 0; rank < layout.pipeline.ranks(); ++rank) {
    MemoryPlan m;
    std::array<double, 2> kept = {};
    for (int chunk = 0; chunk < layout.pipeline.chunks(); ++chunk) {
      const Stage& stage = stages[static_cast<size_t>(layout.pipeline.stage({rank, chunk}))];
      const Parameters& p = stage.parameters;
      m.expert_parameters += p.experts / expert;
      m.other_parameters += p.linear + p.rest;
      m.weights += kFp8Weight * (p.linear + p.experts / expert) + 2 * p.rest;
      kept[static_cast<size_t>(chunk)] = stage.kept * tokens;
    }
    m.gradients = 4 * (m.other_parameters + m.expert_parameters);
    m.masters = m.moments = 4 * (m.other_parameters / holders.others + m.expert_parameters / holders.experts);
    m.activations = peak_activations(layout.pipeline.actions(rank), kept);
    m.workspace = workspace_bytes(c, tokens);
    m.buffers = buffer_bytes(c, cluster, layout);
    if (m.total() > worst.total()) worst = m;
  }
  return worst;
}

}  // namespace sluice
