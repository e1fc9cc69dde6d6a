#include "model/config.h"

#include <cmath>
#include <numbers>

namespace sluice {
namespace {

double yarn_magnitude(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

double inverse_frequency(const HfConfig& c, int64_t i) {
  const double D = static_cast<double>(c.qk_rope_head_dim);
  const double f = std::pow(c.rope_theta, -2.0 * static_cast<double>(i) / D);
  if (!c.yarn) return f;
  const HfYarn& y = *c.yarn;
  const auto dim = [&](double n) {
    return D * std::log(static_cast<double>(y.original_max_position_embeddings) / (2 * std::numbers::pi * n)) /
           (2 * std::log(c.rope_theta));
  };
  const double low = std::max(std::floor(dim(y.beta_fast)), 0.0);
  double high = std::min(std::ceil(dim(y.beta_slow)), D - 1);
  if (low == high) high += 0.001;
  const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
  return f / y.factor * ramp + f * (1 - ramp);
}

}  // namespace

bool is_moe_layer(const HfConfig& c, int64_t layer) {
  return c.n_routed_experts > 0 && layer >= c.first_k_dense_replace && layer % c.moe_layer_freq == 0;
}

RouterConfig router_config(const HfConfig& c) {
  RouterConfig r;
  r.n_group = c.n_group;
  r.topk_group = c.topk_group;
  r.top_k = c.num_experts_per_tok;
  r.scoring = c.scoring_func == "softmax" ? Scoring::softmax : Scoring::sigmoid;
  r.method = c.topk_method == "greedy"                 ? TopkMethod::greedy
             : c.topk_method == "group_limited_greedy" ? TopkMethod::group_limited_greedy
                                                       : TopkMethod::noaux_tc;
  r.norm_topk_prob = c.norm_topk_prob;
  r.scale = static_cast<float>(c.routed_scaling_factor);
  return r;
}

float softmax_scale(const HfConfig& c) {
  const double m = c.yarn && c.yarn->mscale_all_dim != 0 ? yarn_magnitude(c.yarn->factor, c.yarn->mscale_all_dim) : 1.0;
  return static_cast<float>(m * m / std::sqrt(static_cast<double>(c.qk_nope_head_dim + c.qk_rope_head_dim)));
}

void fill_rope_table(const HfConfig& c, Tensor table) {
  const int64_t half = c.qk_rope_head_dim / 2;
  check(table.cols() == 2 * half, "fill_rope_table: expected qk_rope_head_dim columns");
  const double magnitude =
      c.yarn ? yarn_magnitude(c.yarn->factor, c.yarn->mscale) / yarn_magnitude(c.yarn->factor, c.yarn->mscale_all_dim)
             : 1.0;
  for (int64_t i = 0; i < half; ++i) {
    const double frequency = inverse_frequency(c, i);
    for (int64_t p = 0; p < table.rows(); ++p) {
      float* row = table.f32() + p * 2 * half;
      row[i] = static_cast<float>(magnitude * std::cos(static_cast<double>(p) * frequency));
      row[half + i] = static_cast<float>(magnitude * std::sin(static_cast<double>(p) * frequency));
    }
  }
}

AttentionShape attention_shape(const HfConfig& c, int64_t batch, int64_t tokens) {
  return {batch, tokens, c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim, softmax_scale(c)};
}

}  // namespace sluice
