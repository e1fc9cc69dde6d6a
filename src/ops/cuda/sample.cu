// Sampling: one block takes one row. Cuts are found without sorting: the bits of positive float32 numbers are in the
// order of the numbers, so four rounds over eight bits each find the smallest number that is kept.
#include "ops/sample.h"

#include "ops/cuda/largest.cuh"

namespace sluice::cuda {
namespace {

/// Below this the softmax is one-hot in float32 anyway, and dividing by it could overflow.
constexpr float kColdest = 1e-5f;
constexpr int kThreads = 512, kBins = 256;

using Weight = unsigned long long;

/// What a probability counts: 1, or itself in units of 2^-40, so that sums are exact in any order.
struct One {
  __device__ Weight operator()(float) const { return 1; }
};
struct Share {
  __device__ Weight operator()(float p) const { return static_cast<Weight>(static_cast<double>(p) * 0x1p40); }
};

/// The least of the largest elements that weigh `target` together: its bits, and the weight still missing when all
/// larger ones are counted.
struct Cut {
  uint32_t bits;
  Weight missing;
};

template <class W>
__device__ Weight total_weight(const float* p, int64_t n, W weight) {
  Weight total = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads)
    if (p[i] > 0) total += weight(p[i]);
  return block_sum(total);
}

template <class W>
__device__ Cut find_cut(const float* p, int64_t n, Weight target, W weight) {
  __shared__ Weight bin[kBins];
  __shared__ Cut shared_cut;
  if (threadIdx.x == 0) shared_cut = {0, target};
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int b = static_cast<int>(threadIdx.x); b < kBins; b += kThreads) bin[b] = 0;
    __syncthreads();
    const uint32_t prefix = shared_cut.bits;
    for (int64_t i = threadIdx.x; i < n; i += kThreads) {
      const uint32_t bits = __float_as_uint(p[i]);
      const bool is_inside = shift == 24 || bits >> (shift + 8) == prefix >> (shift + 8);
      if (p[i] > 0 && is_inside) atomicAdd(&bin[bits >> shift & 255u], weight(p[i]));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int b = kBins - 1;
      for (; b > 0 && bin[b] < shared_cut.missing; --b) shared_cut.missing -= bin[b];
      shared_cut.bits |= static_cast<uint32_t>(b) << shift;
    }
    __syncthreads();
  }
  return shared_cut;
}

/// p := 0 below the cut and for all but the first `ties` elements that equal it.
__device__ void apply_cut(float* p, int64_t n, uint32_t bits, Weight ties) {
  __shared__ int part[kThreads / 32];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  Weight seen = 0;
  for (int64_t begin = 0; begin < n; begin += kThreads) {
    const int64_t i = begin + threadIdx.x;
    const uint32_t mine = i < n ? __float_as_uint(p[i]) : 0u;
    const unsigned votes = __ballot_sync(~0u, i < n && mine == bits);
    __syncthreads();  // the last round's counts have been read
    if (lane == 0) part[warp] = __popc(votes);
    __syncthreads();
    Weight before = seen + static_cast<Weight>(__popc(votes & ((1u << lane) - 1)));
    for (int w = 0; w < warp; ++w) before += static_cast<Weight>(part[w]);
    for (int w = 0; w < kThreads / 32; ++w) seen += static_cast<Weight>(part[w]);
    if (i < n && (mine < bits || (mine == bits && before >= ties))) p[i] = 0;
  }
  __syncthreads();
}

__device__ void cut_tail(float* p, int64_t n, const SamplingRule& rule) {
  if (rule.top_k > 0 && static_cast<Weight>(rule.top_k) < total_weight(p, n, One())) {
    const Cut cut = find_cut(p, n, static_cast<Weight>(rule.top_k), One());
    apply_cut(p, n, cut.bits, cut.missing);
  }
  if (rule.top_p < 1) {
    const double all = static_cast<double>(total_weight(p, n, Share()));
    const Weight target = static_cast<Weight>(ceil(all * static_cast<double>(rule.top_p)));
    const Cut cut = find_cut(p, n, max(target, Weight{1}), Share());
    const Weight each = max(Share()(__uint_as_float(cut.bits)), Weight{1});
    apply_cut(p, n, cut.bits, (cut.missing + each - 1) / each);
  }
  if (rule.min_p > 0) {
    float most = 0;
    for (int64_t i = threadIdx.x; i < n; i += kThreads) most = fmaxf(most, p[i]);
    most = block_max(most);
    for (int64_t i = threadIdx.x; i < n; i += kThreads)
      if (p[i] < rule.min_p * most) p[i] = 0;
  }
}

__global__ void argmax_rows(int32_t* ids_T, Rows<const float> logits, int64_t limit) {
  const Largest best = block_largest(logits[blockIdx.x], limit);
  if (threadIdx.x == 0) ids_T[blockIdx.x] = best.index;
}

/// SamplingState as the kernel sees it; null: nothing.
struct State {
  const int32_t *seen, *counts, *bias_ids;
  const float* biases;
  const int64_t* allowed;
  int64_t num_seen, num_biases;
  __host__ __device__ bool changes() const { return num_seen > 0 || num_biases > 0 || allowed; }
};

State state_of(const SamplingState& s) {
  return {s.seen ? s.seen.ptr<int32_t>() : nullptr,
          s.counts ? s.counts.ptr<int32_t>() : nullptr,
          s.bias_ids ? s.bias_ids.ptr<int32_t>() : nullptr,
          s.biases ? s.biases.f32() : nullptr,
          s.allowed ? s.allowed.ptr<int64_t>() : nullptr,
          s.seen ? s.seen.size() : 0,
          s.bias_ids ? s.bias_ids.size() : 0};
}

/// p = x as the state changes it. Ends with all threads done.
__device__ void change(float* p, const float* x, int64_t V, int64_t limit, const SamplingRule& rule, const State& s) {
  if (p != x)
    for (int64_t i = threadIdx.x; i < V; i += kThreads) p[i] = x[i];
  __syncthreads();
  if (threadIdx.x == 0)  // an id may have several, which are added in order
    for (int64_t i = 0; i < s.num_biases; ++i)
      if (s.bias_ids[i] < V) p[s.bias_ids[i]] += s.biases[i];
  __syncthreads();
  for (int64_t i = threadIdx.x; i < s.num_seen; i += kThreads) {
    if (s.seen[i] >= V) continue;
    float& logit = p[s.seen[i]];
    logit = logit > 0 ? logit / rule.repetition_penalty : logit * rule.repetition_penalty;
    if (s.counts && s.counts[i] > 0)
      logit -= static_cast<float>(s.counts[i]) * rule.frequency_penalty + rule.presence_penalty;
  }
  __syncthreads();
  if (s.allowed)
    for (int64_t i = threadIdx.x; i < limit; i += kThreads)
      if (!(s.allowed[i / 64] >> (i % 64) & 1)) p[i] = -INFINITY;
  __syncthreads();
}

__global__ void distribution(Rows<float> out, Rows<const float> logits, int64_t V, int64_t limit, SamplingRule rule,
                             State state) {
  float* p = out[blockIdx.x];
  const float* x = logits[blockIdx.x];
  if (state.changes()) {
    change(p, x, V, limit, rule, state);
    x = p;
  }
  const Largest best = block_largest(x, limit);
  if (rule.temperature == 0 || best.value == -INFINITY) {  // the latter: nothing is allowed
    const float certain = best.value == -INFINITY ? 0.0f : 1.0f;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < V; i += kThreads) p[i] = i == best.index ? certain : 0.0f;
    return;
  }
  const float scale = 1.0f / fmaxf(rule.temperature, kColdest);
  for (int64_t i = threadIdx.x; i < V; i += kThreads) p[i] = i < limit ? expf((x[i] - best.value) * scale) : 0.0f;
  __syncthreads();
  cut_tail(p, limit, rule);
  double total = 0;
  for (int64_t i = threadIdx.x; i < limit; i += kThreads) total += static_cast<double>(p[i]);
  const float factor = static_cast<float>(1.0 / block_sum(total));
  for (int64_t i = threadIdx.x; i < limit; i += kThreads) p[i] *= factor;
}

__global__ void log_sums(float* total_T, Rows<const float> logits, int64_t V) {
  const float* x = logits[blockIdx.x];
  const float most = block_largest(x, V).value;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < V; i += kThreads) sum += static_cast<double>(expf(x[i] - most));
  sum = block_sum(sum);
  if (threadIdx.x == 0) total_T[blockIdx.x] = most + static_cast<float>(log(sum));
}

}  // namespace

void argmax(Stream& s, Tensor ids_T, const Tensor& logits, int64_t limit) {
  if (logits.rows() == 0) return;
  argmax_rows<<<static_cast<unsigned>(logits.rows()), kThreads, 0, s.queue().stream()>>>(
      ids_T.ptr<int32_t>(), rows<const float>(logits), limit);
  check_launch("argmax");
}

void sampling_distribution(Stream& s, Tensor p, const Tensor& logits, int64_t limit, const SamplingRule& rule,
                           const SamplingState& state) {
  if (logits.rows() == 0) return;
  distribution<<<static_cast<unsigned>(logits.rows()), kThreads, 0, s.queue().stream()>>>(
      rows<float>(p), rows<const float>(logits), logits.cols(), limit, rule, state_of(state));
  check_launch("sampling_distribution");
}

void log_sum_exp(Stream& s, Tensor total_T, const Tensor& logits) {
  if (logits.rows() == 0) return;
  log_sums<<<static_cast<unsigned>(logits.rows()), kThreads, 0, s.queue().stream()>>>(
      total_T.f32(), rows<const float>(logits), logits.cols());
  check_launch("log_sum_exp");
}

}  // namespace sluice::cuda
