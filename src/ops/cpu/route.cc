// Routing: which experts a token goes to, and the gradient through the router (specification 3.1, 3.4, 3.6, 3.8).
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/moe.h"

namespace sluice::cpu {
namespace {

constexpr int64_t kTokens = 64;
constexpr float kNormEpsilon = 1e-20f;

void score_row(float* score, const float* logits, int64_t E, Scoring scoring) {
  if (scoring == Scoring::sigmoid) {
    for (int64_t e = 0; e < E; ++e) score[e] = 1.0f / (1.0f + std::exp(-logits[e]));
    return;
  }
  const float most = *std::max_element(logits, logits + E);
  float total = 0;
  for (int64_t e = 0; e < E; ++e) total += score[e] = std::exp(logits[e] - most);
  for (int64_t e = 0; e < E; ++e) score[e] /= total;
}

/// The K largest of z in descending order, lowest index on ties; entries of -inf are never better than finite ones.
void top_k(int32_t* choice, const float* z, int64_t n, int64_t K) {
  for (int64_t k = 0; k < K; ++k) choice[k] = -1;
  for (int64_t e = 0; e < n; ++e) {
    int64_t k = K;
    while (k > 0 && (choice[k - 1] < 0 || z[e] > z[choice[k - 1]])) --k;
    for (int64_t j = K - 1; j > k; --j) choice[j] = choice[j - 1];
    if (k < K) choice[k] = static_cast<int32_t>(e);
  }
}

float group_score(const float* z, int64_t n, TopkMethod method) {
  int32_t best[2];
  top_k(best, z, n, method == TopkMethod::noaux_tc && n > 1 ? 2 : 1);
  return method == TopkMethod::noaux_tc && n > 1 ? z[best[0]] + z[best[1]] : z[best[0]];
}

/// z of all experts outside the best topk_group groups := -inf. `kept` and `groups` have n_group elements.
void mask_groups(float* z, float* groups, int32_t* kept, int64_t E, const RouterConfig& c) {
  if (c.n_group <= 1 || c.method == TopkMethod::greedy) return;
  const int64_t width = E / c.n_group;
  for (int64_t g = 0; g < c.n_group; ++g) groups[g] = group_score(z + g * width, width, c.method);
  top_k(kept, groups, c.n_group, c.topk_group);
  for (int64_t g = 0; g < c.n_group; ++g)
    if (std::find(kept, kept + c.topk_group, g) == kept + c.topk_group)
      std::fill(z + g * width, z + (g + 1) * width, -std::numeric_limits<float>::infinity());
}

void weigh(float* weight, const float* score, const int32_t* choice, const RouterConfig& c) {
  float total = 0;
  for (int64_t k = 0; k < c.top_k; ++k) total += weight[k] = score[choice[k]];
  const bool normalise = c.norm_topk_prob && (c.scoring == Scoring::sigmoid || c.top_k > 1);
  const bool rescale = c.scoring == Scoring::sigmoid || !normalise;
  for (int64_t k = 0; k < c.top_k; ++k) {
    if (normalise) weight[k] /= total + kNormEpsilon;
    if (rescale) weight[k] *= c.scale;
  }
}

/// d = gradient of the scores from that of the weights (= or += into d).
void weight_backward_row(float* d, const float* dweight, const int32_t* choice, const float* score,
                         const RouterConfig& c) {
  const bool normalise = c.norm_topk_prob && (c.scoring == Scoring::sigmoid || c.top_k > 1);
  const float scale = c.scoring == Scoring::sigmoid || !normalise ? c.scale : 1.0f;
  float total = 0, mean = 0;
  for (int64_t k = 0; k < c.top_k; ++k) total += score[choice[k]];
  total += kNormEpsilon;
  for (int64_t k = 0; k < c.top_k; ++k) mean += dweight[k] * score[choice[k]] / total;
  for (int64_t k = 0; k < c.top_k; ++k)
    d[choice[k]] += normalise ? scale / total * (dweight[k] - mean) : scale * dweight[k];
}

/// Gradient of the logits from that of the scores, in place.
void score_backward_row(float* d, const float* score, int64_t E, Scoring scoring) {
  if (scoring == Scoring::sigmoid) {
    for (int64_t e = 0; e < E; ++e) d[e] *= score[e] * (1.0f - score[e]);
    return;
  }
  float mean = 0;
  for (int64_t e = 0; e < E; ++e) mean += d[e] * score[e];
  for (int64_t e = 0; e < E; ++e) d[e] = score[e] * (d[e] - mean);
}

}  // namespace

void route_forward(Stream& s, Tensor choice_TK, Tensor weight_TK, Tensor score_TE, const Tensor& logits_TE,
                   const Tensor& bias_E, const RouterConfig& c) {
  const int64_t E = logits_TE.cols(), K = c.top_k;
  parallel_for(s, logits_TE.rows(), kTokens, [&](int64_t begin, int64_t end, int thread) {
    float* z = s.scratch(thread, static_cast<size_t>(E + 2 * c.n_group));
    float* groups = z + E;
    int32_t* kept = reinterpret_cast<int32_t*>(groups + c.n_group);
    for (int64_t t = begin; t < end; ++t) {
      float* score = score_TE.f32() + t * E;
      int32_t* choice = choice_TK.ptr<int32_t>() + t * K;
      score_row(score, logits_TE.f32() + t * E, E, c.scoring);
      for (int64_t e = 0; e < E; ++e) z[e] = score[e] + (bias_E ? bias_E.f32()[e] : 0.0f);
      mask_groups(z, groups, kept, E, c);
      top_k(choice, z, E, K);
      weigh(weight_TK.f32() + t * K, score, choice, c);
    }
  });
}

void route_backward(Stream& s, Tensor dlogits_TE, const Tensor& dweight_TK, const Tensor& dscore_TE,
                    const Tensor& choice_TK, const Tensor& score_TE, const RouterConfig& c) {
  const int64_t E = score_TE.cols(), K = c.top_k;
  parallel_for(s, score_TE.rows(), kTokens, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* d = dlogits_TE.f32() + t * E;
      if (dscore_TE)
        std::copy_n(dscore_TE.f32() + t * E, E, d);
      else
        std::fill_n(d, E, 0.0f);
      weight_backward_row(d, dweight_TK.f32() + t * K, choice_TK.ptr<int32_t>() + t * K, score_TE.f32() + t * E, c);
      score_backward_row(d, score_TE.f32() + t * E, E, c.scoring);
    }
  });
}

void balance_forward(Stream& s, Tensor loss_B, Tensor f_BE, const Tensor& score_TE, const Tensor& choice_TK,
                     int64_t K) {
  const int64_t E = score_TE.cols(), B = loss_B.size(), S = score_TE.rows() / B;
  s.pool().run(B, [&](int64_t b, int thread) {
    float* f = f_BE.f32() + b * E;
    float* P = s.scratch(thread, static_cast<size_t>(E + K));
    int32_t* best = reinterpret_cast<int32_t*>(P + E);
    std::fill_n(f, E, 0.0f);
    std::fill_n(P, E, 0.0f);
    for (int64_t t = b * S; t < (b + 1) * S; ++t) {
      const float* score = score_TE.f32() + t * E;
      const int32_t* choice = choice_TK ? choice_TK.ptr<int32_t>() + t * K : best;
      if (!choice_TK) top_k(best, score, E, K);
      for (int64_t k = 0; k < K; ++k) f[choice[k]] += 1.0f;
      float total = 0;
      for (int64_t e = 0; e < E; ++e) total += score[e];
      for (int64_t e = 0; e < E; ++e) P[e] += score[e] / total;
    }
    float loss = 0;
    for (int64_t e = 0; e < E; ++e) {
      f[e] *= static_cast<float>(E) / static_cast<float>(K * S);
      loss += f[e] * P[e] / static_cast<float>(S);
    }
    loss_B.f32()[b] = loss;
  });
}

void balance_backward(Stream& s, Tensor dscore_TE, const Tensor& f_BE, const Tensor& score_TE, float coefficient) {
  const int64_t E = score_TE.cols(), B = f_BE.rows(), S = score_TE.rows() / B;
  parallel_for(s, score_TE.rows(), kTokens, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float *f = f_BE.f32() + t / S * E, *score = score_TE.f32() + t * E;
      float* d = dscore_TE.f32() + t * E;
      float total = 0, mean = 0;
      for (int64_t e = 0; e < E; ++e) total += score[e], mean += f[e] * score[e];
      mean /= total;
      for (int64_t e = 0; e < E; ++e) d[e] = coefficient / static_cast<float>(S) / total * (f[e] - mean);
    }
  });
}

void moe_bias_update(Stream&, Tensor bias_E, const Tensor& counts_E, float speed) {
  const int64_t E = bias_E.size();
  const int64_t* counts = counts_E.ptr<int64_t>();
  int64_t total = 0;
  for (int64_t e = 0; e < E; ++e) total += counts[e];
  for (int64_t e = 0; e < E; ++e) {  // sign(mean - count) without a rounded mean
    const int64_t difference = total - counts[e] * E;
    bias_E.f32()[e] += speed * static_cast<float>((difference > 0) - (difference < 0));
  }
}

}  // namespace sluice::cpu
