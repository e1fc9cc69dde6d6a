// D hidden, F width of an FFN, K experts of a token, Q and C ranks of the latents, H heads. What moves memory is
// counted as the ops of this program do it: each is a kernel that reads its inputs and writes its outputs once, and
// quantising is a pass of its own over bf16 for each tiling. bf16 has 2 bytes, FP8 codes with a scale per 128 have
// kFp8.
#include "plan/layer_time.h"

#include <algorithm>

namespace sluice {
namespace {

constexpr double kBf16 = 2;
constexpr double kFp8 = 1 + 4.0 / 128;
constexpr double kQuantize = kBf16 + kFp8;  // bf16 -> codes in one tiling
constexpr double kE5M6 = 1.5;               // in which the input of o_proj is kept

struct Sizes {
  double D, Q, C, H, nope, rope, value, E, K, F_dense, F_expert, F_shared, V;
  double qk() const { return nope + rope; }
};

Sizes sizes_of(const HfConfig& c) {
  const auto d = [](int64_t n) { return static_cast<double>(n); };
  return {d(c.hidden_size),         d(c.q_lora_rank),           d(c.kv_lora_rank),
          d(c.num_attention_heads), d(c.qk_nope_head_dim),      d(c.qk_rope_head_dim),
          d(c.v_head_dim),          d(c.n_routed_experts),      d(c.num_experts_per_tok),
          d(c.intermediate_size),   d(c.moe_intermediate_size), d(c.n_shared_experts * c.moe_intermediate_size),
          d(c.vocab_size)};
}

/// Sums up the phases of one layer.
class LayerSum {
 public:
  LayerSum(const Sizes& z, const MicroShape& shape, const Rates& rates) : z_(z), shape_(shape), rates_(rates) {}

  /// A linear layer in all three phases. `recomputed`: its forward runs again in the backward pass.
  void linear(Compute& forward, Compute& input, Compute& weight, Product p, bool recomputed = false) {
    if (p.rows == 0 || p.outputs == 0 || p.inputs == 0) return;
    const double once = rates_.product(p);
    forward.products += once;
    if (recomputed) input.products += once;
    Product back = p;
    std::swap(back.outputs, back.inputs);
    input.products += rates_.product(back);
    p.pass = Pass::weight;
    weight.products += rates_.product(p);
  }

  void move(Compute& phase, double rows, double bytes_per_row) {
    phase.elementwise += rates_.elementwise(rows * bytes_per_row);
  }

  void attention_products(LayerTime& t) {
    const double T = shape_.tokens, all = std::max(T, shape_.seq_len);  // keys of the whole sequence are expanded here
    const auto add = [&](double rows, double outputs, double inputs, bool recomputed) {
      linear(t.attention_forward, t.attention_input, t.attention_weight, {rows, outputs, inputs, NumberType::fp8},
             recomputed);
    };
    if (z_.Q > 0) add(T, z_.Q, z_.D, false);
    add(T, z_.H * z_.qk(), z_.Q > 0 ? z_.Q : z_.D, z_.Q > 0);
    add(T, z_.C + z_.rope, z_.D, false);
    add(all, z_.H * (z_.nope + z_.value), z_.C, true);
    add(T, z_.D, z_.H * z_.value, false);
  }

  void attention_core(LayerTime& t) {
    const double keys = (shape_.seq_len + 1) / 2;  // that the average query sees
    const double pair = 2 * z_.H * shape_.tokens * keys;
    t.attention_forward.attention += rates_.attention(pair * (z_.qk() + z_.value), shape_.seq_len, Pass::forward);
    t.attention_input.attention +=
        rates_.attention(pair * (3 * z_.qk() + 2 * z_.value), shape_.seq_len, Pass::backward);
  }

  void attention_moves(LayerTime& t) {
    const double T = shape_.tokens, D = z_.D, latents = z_.Q + z_.C + z_.rope, q = z_.H * z_.qk();
    const double kv = z_.H * (z_.nope + z_.value), o = z_.H * z_.value, q_rope = z_.H * z_.rope;
    Compute& f = t.attention_forward;
    move(f, T, (2 * kBf16 + kQuantize) * (D + latents));  // norms, codes
    move(f, T, 2 * kBf16 * q_rope);                       // rope of the queries
    move(f, T, (kQuantize + kBf16 + kE5M6) * o);          // output -> codes, and what is kept
    move(f, T, 3 * kBf16 * D);                            // residual sum
    Compute& b = t.attention_input;
    move(b, T, 2 * kQuantize * D);                                                // dy in both tilings
    move(b, T, (2 * kBf16 + kQuantize) * latents + 2 * kBf16 * (D + q_rope));     // recomputed norms, codes and rope
    move(b, T, (kE5M6 + kBf16) * o);                                              // sum of o do
    move(b, T, 2 * kBf16 * q_rope);                                               // rope of dq
    move(b, T, 2 * kQuantize * (q + kv));                                         // dq, dk, dv in both tilings
    move(b, T, (3 * kBf16 + 2 * kQuantize) * latents);                            // gradients of the latent norms
    move(b, T, (3 + 3) * kBf16 * D);                                              // gradient of the norm, residual sum
    move(t.attention_weight, T, (kE5M6 + kFp8) * o + kQuantize * (D + latents));  // inputs -> tiles along tokens
  }

  /// gate, up and down of `rows` rows.
  void ffn(LayerTime& t, double rows, double width, bool grouped) {
    if (width == 0) return;
    const auto add = [&](double outputs, double inputs) {
      linear(t.ffn_forward, t.ffn_input, t.ffn_weight,
             {rows, outputs, inputs, NumberType::fp8, Pass::forward, grouped});
    };
    add(2 * width, z_.D);
    add(z_.D, width);
    // SwiGLU, codes of its output, and of its inputs, which are kept.
    move(t.ffn_forward, rows, (3 * kBf16 + kQuantize + 2 * kQuantize) * width);
    // Backward: dh and the kept inputs -> output again and gradients of both inputs; these in both tilings, that along
    // tokens.
    move(t.ffn_input, rows, (kBf16 + 2 * kFp8 + 3 * kBf16 + 4 * kQuantize + kQuantize) * width);
    move(t.ffn_weight, rows, 2 * 2 * kFp8 * z_.D);  // x and dy -> tiles along tokens
  }

  void norms_of_ffn(LayerTime& t) {
    const double T = shape_.tokens, D = z_.D;
    move(t.ffn_forward, T, (2 * kBf16 + kQuantize) * D);  // norm, codes
    move(t.ffn_forward, T, 4 * kBf16 * D);                // residual, routed and shared summed
    move(t.ffn_input, T, (kQuantize + 2 * kBf16) * D);    // dy, recomputed norm
    move(t.ffn_input, T, (3 + 3 + 3) * kBf16 * D);        // sum of gradients, of the norm, residual sum
  }

  void routed(LayerTime& t, const Reach& reach) {
    const double T = shape_.tokens, D = z_.D;
    linear(t.ffn_forward, t.ffn_input, t.ffn_weight, {T, z_.E, D, NumberType::bf16});
    ffn(t, T * z_.K, z_.F_expert, true);
    ffn(t, T, z_.F_shared, false);
    for (Compute* phase : {&t.ffn_forward, &t.ffn_input}) {
      move(*phase, T * z_.K, 2 * kFp8 * D);  // into the order of the experts
      // Sums of a token's rows: on the node that computed them, then where the token is.
      move(*phase, T, kBf16 * D * (z_.K + 2 * reach.nodes + 1));
    }
  }

 private:
  const Sizes& z_;
  const MicroShape& shape_;
  const Rates& rates_;
};

/// Latents of a sequence that is spread over several GPUs, gathered from the others and their gradients summed there.
double latent_seconds(const Sizes& z, const MicroShape& shape, const ClusterConfig& cluster) {
  if (shape.seq_len <= shape.tokens) return 0;
  const bool within = shape.seq_len <= shape.tokens * static_cast<double>(cluster.gpus_per_node);
  const double rate = within ? cluster.nvlink_gb_per_second : cluster.infiniband_gb_per_second;
  return 1e-9 * kBf16 * (z.C + z.rope) * (shape.seq_len - shape.tokens) / rate;
}

}  // namespace

Compute& Compute::operator+=(const Compute& other) {
  products += other.products, attention += other.attention, elementwise += other.elementwise;
  return *this;
}

LayerTime layer_time(const HfConfig& c, LayerKind kind, const MicroShape& shape, const ClusterConfig& cluster,
                     const Rates& rates) {
  const Sizes z = sizes_of(c);
  LayerTime t;
  LayerSum sum(z, shape, rates);
  sum.attention_products(t);
  sum.attention_core(t);
  sum.attention_moves(t);
  sum.norms_of_ffn(t);
  // Nothing hides the latents: they are counted as time of the attention.
  t.attention_forward.elementwise += latent_seconds(z, shape, cluster);
  t.attention_input.elementwise += latent_seconds(z, shape, cluster);
  if (kind == LayerKind::dense) {
    sum.ffn(t, shape.tokens, z.F_dense, false);
    return t;
  }
  const Reach reach = expert_reach(c, cluster, shape.expert);
  sum.routed(t, reach);
  if (shape.expert == 1) return t;
  t.dispatch = t.gradient_out = all_to_all_seconds(cluster, reach, shape.tokens, kFp8 * z.D);
  t.combine = t.gradient_back = all_to_all_seconds(cluster, reach, shape.tokens, kBf16 * z.D);
  return t;
}

LayerTime head_time(const HfConfig& c, const MicroShape& shape, const Rates& rates) {
  const Sizes z = sizes_of(c);
  LayerTime t;
  LayerSum sum(z, shape, rates);
  sum.linear(t.ffn_forward, t.ffn_input, t.ffn_weight, {shape.tokens, z.V, z.D, NumberType::bf16});
  sum.move(t.ffn_forward, shape.tokens, 2 * kBf16 * z.D + 3 * kBf16 * z.V);  // norm; logits -> loss and their gradient
  sum.move(t.ffn_input, shape.tokens, 4 * kBf16 * z.D);
  return t;
}

LayerTime mtp_input_time(const HfConfig& c, const MicroShape& shape, const Rates& rates) {
  const Sizes z = sizes_of(c);
  LayerTime t;
  LayerSum sum(z, shape, rates);
  sum.linear(t.ffn_forward, t.ffn_input, t.ffn_weight, {shape.tokens, z.D, 2 * z.D, NumberType::bf16});
  sum.move(t.ffn_forward, shape.tokens, 4 * kBf16 * z.D);
  sum.move(t.ffn_input, shape.tokens, 8 * kBf16 * z.D);
  return t;
}

}  // namespace sluice
