// Routing: which experts a token goes to, and the gradient through the router. One warp takes one token.
#include "ops/cuda/kernel.cuh"
#include "ops/moe.h"

namespace sluice::cuda {
namespace {

constexpr float kNormEpsilon = 1e-20f;
constexpr int kWarps = 4;
constexpr unsigned kAll = ~0u;

using Key = unsigned long long;

/// Orders values, and equal ones by descending index; NaN below all numbers. 0 is below every key.
__device__ Key key_of(float v, int index) {
  const uint32_t bits = __float_as_uint(v), order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<Key>(isnan(v) ? 0u : order) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}
__device__ int index_of(Key key) { return static_cast<int>(0xffffffffu - static_cast<uint32_t>(key)); }

__device__ Key warp_largest(Key key) {
#pragma unroll
  for (int o = 16; o > 0; o /= 2) {
    const Key other = __shfl_xor_sync(kAll, key, o);
    key = other > key ? other : key;
  }
  return key;
}

/// The K largest of z[0..n) in descending order into choice, the lowest index on ties. By one warp.
__device__ void top_k(int32_t* choice, const float* z, int n, int K) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  Key last = ~Key{0};
  for (int k = 0; k < K; ++k) {
    Key best = 0;
    for (int e = lane; e < n; e += 32) {
      const Key key = key_of(z[e], e);
      if (key < last && key > best) best = key;
    }
    last = warp_largest(best);
    if (lane == 0) choice[k] = index_of(last);
  }
  __syncwarp();
}

__device__ void score_row(float* score, const float* logits, int E, Scoring scoring) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (scoring == Scoring::sigmoid) {
    for (int e = lane; e < E; e += 32) score[e] = 1.0f / (1.0f + expf(-logits[e]));
    return;
  }
  float most = -INFINITY, total = 0;
  for (int e = lane; e < E; e += 32) most = fmaxf(most, logits[e]);
  most = warp_max(most);
  for (int e = lane; e < E; e += 32) total += score[e] = expf(logits[e] - most);
  total = warp_sum(total);
  for (int e = lane; e < E; e += 32) score[e] /= total;
}

/// What decides about a group: its best element, or the sum of its best two.
__device__ float group_score(const float* z, int n, TopkMethod method) {
  Key best = 0, second = 0;
  for (int e = 0; e < n; ++e) {
    const Key key = key_of(z[e], e);
    if (key > best) {
      second = best;
      best = key;
    } else if (key > second) {
      second = key;
    }
  }
  const bool two = method == TopkMethod::noaux_tc && n > 1;
  return two ? z[index_of(best)] + z[index_of(second)] : z[index_of(best)];
}

/// z of all experts outside the best groups := -inf. `groups` and `kept` have n_group elements.
__device__ void mask_groups(float* z, float* groups, int32_t* kept, int E, const RouterConfig& c) {
  if (c.n_group <= 1 || c.method == TopkMethod::greedy) return;
  const int lane = static_cast<int>(threadIdx.x % 32), n = static_cast<int>(c.n_group), width = E / n;
  for (int g = lane; g < n; g += 32) groups[g] = group_score(z + g * width, width, c.method);
  __syncwarp();
  top_k(kept, groups, n, static_cast<int>(c.topk_group));
  for (int e = lane; e < E; e += 32) {
    bool is_kept = false;
    for (int i = 0; i < static_cast<int>(c.topk_group); ++i) is_kept |= kept[i] == e / width;
    if (!is_kept) z[e] = -INFINITY;
  }
  __syncwarp();
}

__device__ bool is_normalised(const RouterConfig& c) {
  return c.norm_topk_prob && (c.scoring == Scoring::sigmoid || c.top_k > 1);
}

/// By one warp; scores are added in the order of the choices.
__device__ void weigh(float* weight, const float* score, const int32_t* choice, const RouterConfig& c) {
  const int lane = static_cast<int>(threadIdx.x % 32), K = static_cast<int>(c.top_k);
  const bool normalise = is_normalised(c), rescale = c.scoring == Scoring::sigmoid || !normalise;
  float total = 0;
  for (int first = 0; first < K; first += 32) {
    const float mine = first + lane < K ? score[choice[first + lane]] : 0.0f;
    for (int k = 0; k < min(32, K - first); ++k) total += __shfl_sync(kAll, mine, k);
  }
  for (int k = lane; k < K; k += 32) {
    float w = score[choice[k]];
    if (normalise) w /= total + kNormEpsilon;
    if (rescale) w *= c.scale;
    weight[k] = w;
  }
}

/// Shared memory of a warp in the routing kernel, in floats.
__host__ __device__ size_t route_floats(int64_t E, int64_t groups) { return static_cast<size_t>(E + 2 * groups); }

__global__ void route(int32_t* choice_TK, float* weight_TK, float* score_TE, const float* logits_TE,
                      const float* bias_E, int64_t T, int E, RouterConfig c) {
  wait_for_previous();
  extern __shared__ float shared[];
  float* z = shared + threadIdx.x / 32 * route_floats(E, c.n_group);
  float* groups = z + E;
  int32_t* kept = reinterpret_cast<int32_t*>(groups + c.n_group);
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (t >= T) return;
  float* score = score_TE + t * E;
  int32_t* choice = choice_TK + t * c.top_k;
  score_row(score, logits_TE + t * E, E, c.scoring);
  for (int e = lane; e < E; e += 32) z[e] = score[e] + (bias_E ? bias_E[e] : 0.0f);
  __syncwarp();
  mask_groups(z, groups, kept, E, c);
  top_k(choice, z, E, static_cast<int>(c.top_k));
  weigh(weight_TK + t * c.top_k, score, choice, c);
}

/// d += gradient of the scores from that of the weights. By one lane: choices may not be two alike, but few they are.
__device__ void weight_backward(float* d, const float* dweight, const int32_t* choice, const float* score,
                                const RouterConfig& c) {
  const bool normalise = is_normalised(c);
  const float scale = c.scoring == Scoring::sigmoid || !normalise ? c.scale : 1.0f;
  float total = kNormEpsilon, mean = 0;
  for (int64_t k = 0; k < c.top_k; ++k) total += score[choice[k]];
  for (int64_t k = 0; k < c.top_k; ++k) mean += dweight[k] * score[choice[k]] / total;
  for (int64_t k = 0; k < c.top_k; ++k)
    d[choice[k]] += normalise ? scale / total * (dweight[k] - mean) : scale * dweight[k];
}

__global__ void route_backward_rows(float* dlogits_TE, const float* dweight_TK, const float* dscore_TE,
                                    const int32_t* choice_TK, const float* score_TE, int64_t T, int E, RouterConfig c) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (t >= T) return;
  float* d = dlogits_TE + t * E;
  const float* score = score_TE + t * E;
  for (int e = lane; e < E; e += 32) d[e] = dscore_TE ? dscore_TE[t * E + e] : 0.0f;
  __syncwarp();
  if (lane == 0) weight_backward(d, dweight_TK + t * c.top_k, choice_TK + t * c.top_k, score, c);
  __syncwarp();
  if (c.scoring == Scoring::sigmoid) {
    for (int e = lane; e < E; e += 32) d[e] *= score[e] * (1.0f - score[e]);
    return;
  }
  float mean = 0;
  for (int e = lane; e < E; e += 32) mean += d[e] * score[e];
  mean = warp_sum(mean);
  for (int e = lane; e < E; e += 32) d[e] = score[e] * (d[e] - mean);
}

/// total_T = sum of the scores of a token; best_TK, unless null, its top K.
__global__ void score_totals(float* total_T, int32_t* best_TK, const float* score_TE, int64_t T, int E, int K) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (t >= T) return;
  float total = 0;
  for (int e = static_cast<int>(threadIdx.x % 32); e < E; e += 32) total += score_TE[t * E + e];
  total = warp_sum(total);
  if (threadIdx.x % 32 == 0) total_T[t] = total;
  if (best_TK) top_k(best_TK + t * K, score_TE + t * E, E, K);
}

constexpr int kExperts = 32, kTokenLanes = 16;

// A block takes 32 experts of one sequence; token lane l sums the tokens l, l + 16, ...
__global__ void balance_experts(float* f_BE, float* term_BE, const float* score_TE, const float* total_T,
                                const int32_t* choice_TK, int64_t S, int E, int K) {
  __shared__ float part[kTokenLanes][kExperts];
  __shared__ int count[kExperts];
  const int first = static_cast<int>(blockIdx.x) * kExperts, e = first + static_cast<int>(threadIdx.x);
  const int64_t b = blockIdx.y;
  if (threadIdx.y == 0) count[threadIdx.x] = 0;
  __syncthreads();
  float P = 0;
  if (e < E)
    for (int64_t t = b * S + threadIdx.y; t < (b + 1) * S; t += kTokenLanes) P += score_TE[t * E + e] / total_T[t];
  part[threadIdx.y][threadIdx.x] = P;
  for (int64_t i = threadIdx.y * kExperts + threadIdx.x; i < S * K; i += kExperts * kTokenLanes) {
    const int chosen = choice_TK[b * S * K + i] - first;
    if (chosen >= 0 && chosen < kExperts) atomicAdd(&count[chosen], 1);
  }
  __syncthreads();
  if (threadIdx.y > 0 || e >= E) return;
  P = 0;
  for (int l = 0; l < kTokenLanes; ++l) P += part[l][threadIdx.x];
  const float f = static_cast<float>(count[threadIdx.x]) * (static_cast<float>(E) / static_cast<float>(K * S));
  f_BE[b * E + e] = f;
  term_BE[b * E + e] = f * P / static_cast<float>(S);
}

__global__ void add_terms(float* loss_B, const float* term_BE, int E) {
  float loss = 0;
  for (int e = static_cast<int>(threadIdx.x); e < E; e += static_cast<int>(blockDim.x))
    loss += term_BE[blockIdx.x * static_cast<int64_t>(E) + e];
  loss = block_sum(loss);
  if (threadIdx.x == 0) loss_B[blockIdx.x] = loss;
}

__global__ void balance_backward_rows(float* dscore_TE, const float* f_BE, const float* score_TE, int64_t T, int64_t S,
                                      int E, float coefficient) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (t >= T) return;
  const float *f = f_BE + t / S * E, *score = score_TE + t * E;
  float total = 0, mean = 0;
  for (int e = lane; e < E; e += 32) total += score[e], mean += f[e] * score[e];
  total = warp_sum(total);
  mean = warp_sum(mean) / total;
  for (int e = lane; e < E; e += 32) dscore_TE[t * E + e] = coefficient / static_cast<float>(S) / total * (f[e] - mean);
}

__global__ void bias_update(float* bias_E, const int64_t* counts_E, int E, float speed) {
  long long total = 0;
  for (int e = static_cast<int>(threadIdx.x); e < E; e += static_cast<int>(blockDim.x)) total += counts_E[e];
  total = block_sum(total);
  for (int e = static_cast<int>(threadIdx.x); e < E; e += static_cast<int>(blockDim.x)) {
    const long long difference = total - counts_E[e] * E;  // sign(mean - count) without a rounded mean
    bias_E[e] += speed * static_cast<float>((difference > 0) - (difference < 0));
  }
}

constexpr unsigned kThreads = 32 * kWarps;

}  // namespace

void route_forward(Stream& s, Tensor choice_TK, Tensor weight_TK, Tensor score_TE, const Tensor& logits_TE,
                   const Tensor& bias_E, const RouterConfig& c) {
  const int64_t T = score_TE.rows(), E = score_TE.cols();
  if (T == 0) return;
  const size_t shared = kWarps * route_floats(E, c.n_group) * sizeof(float);
  launch_early(s.queue().stream(), route, blocks(T, kWarps), kThreads, shared, choice_TK.ptr<int32_t>(),
               weight_TK.f32(), score_TE.f32(), logits_TE.f32(), bias_E ? bias_E.f32() : nullptr, T,
               static_cast<int>(E), c);
  check_launch("route_forward");
}

void route_backward(Stream& s, Tensor dlogits_TE, const Tensor& dweight_TK, const Tensor& dscore_TE,
                    const Tensor& choice_TK, const Tensor& score_TE, const RouterConfig& c) {
  const int64_t T = score_TE.rows();
  if (T == 0) return;
  route_backward_rows<<<blocks(T, kWarps), kThreads, 0, s.queue().stream()>>>(
      dlogits_TE.f32(), dweight_TK.f32(), dscore_TE ? dscore_TE.f32() : nullptr, choice_TK.ptr<int32_t>(),
      score_TE.f32(), T, static_cast<int>(score_TE.cols()), c);
  check_launch("route_backward");
}

void balance_forward(Stream& s, Tensor loss_B, Tensor f_BE, const Tensor& score_TE, const Tensor& choice_TK,
                     int64_t K) {
  const int64_t T = score_TE.rows(), E = score_TE.cols(), B = loss_B.size();
  if (T == 0) return;
  const size_t tokens = static_cast<size_t>(T), terms = static_cast<size_t>(B * E), slots = static_cast<size_t>(T * K);
  Scratch scratch(s.queue(), Scratch::total(tokens * sizeof(float), terms * sizeof(float), slots * sizeof(int32_t)));
  float *total_T = scratch.take<float>(tokens), *term_BE = scratch.take<float>(terms);
  int32_t* best_TK = choice_TK ? nullptr : scratch.take<int32_t>(slots);
  const int experts = static_cast<int>(E), top = static_cast<int>(K);
  const cudaStream_t stream = s.queue().stream();
  score_totals<<<blocks(T, kWarps), kThreads, 0, stream>>>(total_T, best_TK, score_TE.f32(), T, experts, top);
  balance_experts<<<dim3(blocks(E, kExperts), static_cast<unsigned>(B)), dim3(kExperts, kTokenLanes), 0, stream>>>(
      f_BE.f32(), term_BE, score_TE.f32(), total_T, choice_TK ? choice_TK.ptr<int32_t>() : best_TK, T / B, experts,
      top);
  add_terms<<<static_cast<unsigned>(B), row_threads(E), 0, stream>>>(loss_B.f32(), term_BE, experts);
  check_launch("balance_forward");
}

void balance_backward(Stream& s, Tensor dscore_TE, const Tensor& f_BE, const Tensor& score_TE, float coefficient) {
  const int64_t T = score_TE.rows();
  if (T == 0) return;
  balance_backward_rows<<<blocks(T, kWarps), kThreads, 0, s.queue().stream()>>>(
      dscore_TE.f32(), f_BE.f32(), score_TE.f32(), T, T / f_BE.rows(), static_cast<int>(score_TE.cols()), coefficient);
  check_launch("balance_backward");
}

void moe_bias_update(Stream& s, Tensor bias_E, const Tensor& counts_E, float speed) {
  const int64_t E = bias_E.size();
  bias_update<<<1, row_threads(E), 0, s.queue().stream()>>>(bias_E.f32(), counts_E.ptr<int64_t>(), static_cast<int>(E),
                                                            speed);
  check_launch("moe_bias_update");
}

}  // namespace sluice::cuda
