// Attention on Hopper from launch to launch: what is known before (documents' spans, statistics of queries), scratch
// memory, and how many heads go at once.
#include "ops/cuda/attention_wgmma.h"

#include "ops/cuda/attention_heads.cuh"
#include "ops/cuda/attention_wgmma_backward.cuh"

namespace sluice::cuda {
namespace wgmma_attention {
namespace {

constexpr int kBlock = 256;

/// One warp per 64 queries of a sequence.
__global__ void find_spans(Span* spans, const int32_t* first_T, int tokens, int waves) {
  const int wave = static_cast<int>(blockIdx.x) % waves, sequence = static_cast<int>(blockIdx.x) / waves;
  const int t = wave * kWave + static_cast<int>(threadIdx.x);
  const int32_t* first = first_T + static_cast<int64_t>(sequence) * tokens;
  const int one = first[t < tokens ? t : tokens - 1], other = first[t + 32 < tokens ? t + 32 : tokens - 1];
  const Span span{__reduce_min_sync(~0u, min(one, other)), __reduce_max_sync(~0u, max(one, other))};
  if (threadIdx.x == 0) spans[blockIdx.x] = span;
}

/// Statistics of 32 queries of one head per block, eight lanes each.
__global__ void find_stats(Stats* stats, Rows<const half_t> d_o, Rows<const half_t> o, const float* lse, Work w) {
  const int head = static_cast<int>(blockIdx.y), lane = static_cast<int>(threadIdx.x) % 8;
  const int t = static_cast<int>(blockIdx.x) * (kBlock / 8) + static_cast<int>(threadIdx.x) / 8;
  const int64_t row = w.row0(head) + t;
  float sum = 0;
  if (t < w.tokens) {
    const int column = head % w.heads * kValue + lane * kVector;
#pragma unroll
    for (int part = 0; part < kValue; part += 8 * kVector) {
      float left[kVector], right[kVector];
      load_n(d_o[row] + column + part, left);
      load_n(o[row] + column + part, right);
#pragma unroll
      for (int n = 0; n < kVector; ++n) sum = fmaf(left[n], right[n], sum);
    }
  }
#pragma unroll
  for (int n = 1; n < 8; n *= 2) sum += __shfl_xor_sync(~0u, sum, n);
  if (lane > 0) return;
  stats[static_cast<int64_t>(head) * w.waves() * kWave + t] =
      t < w.tokens ? Stats{lse[row * w.heads + head % w.heads] * kLog2E, sum} : Stats{INFINITY, 0};
}

Work work(const AttentionShape& a) {
  Work w;
  w.tokens = static_cast<int>(a.tokens);
  w.heads = static_cast<int>(a.heads);
  w.num_heads = static_cast<int>(a.batch * a.heads);
  w.rows = a.batch * a.tokens;
  w.scale = a.scale;
  return w;
}

size_t num_spans(const Work& w) { return static_cast<size_t>(w.num_heads / w.heads * w.waves()); }

/// Where documents begin, if there are any.
void take_documents(cudaStream_t stream, Work& w, Span* spans, const AttentionInputs& in) {
  if (!in.first_T) return;
  w.first_T = in.first_T.ptr<int32_t>();
  w.spans = spans;
  find_spans<<<static_cast<unsigned>(num_spans(w)), 32, 0, stream>>>(spans, w.first_T, w.tokens, w.waves());
}

bool is_laid_out(const Tensor& t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.ld % kVector == 0; }

}  // namespace
}  // namespace wgmma_attention

using namespace wgmma_attention;

bool is_wgmma_attention(const AttentionInputs& in, const Tensor& o, const AttentionShape& a) {
  return o.dtype == DType::bf16 && a.nope == kNope && a.rope == kRope && a.value == kValue && is_laid_out(in.q) &&
         is_laid_out(in.kv) && is_laid_out(in.k_rope) && is_laid_out(o);
}

void wgmma_attention_forward(Queue& queue, const Tensor& o, const Tensor& lse, const AttentionInputs& in,
                             const AttentionShape& a) {
  const cudaStream_t stream = queue.stream();
  Work w = work(a);
  Scratch scratch(queue, Scratch::total(sizeof(int), num_spans(w) * sizeof(Span)));
  w.counter = scratch.take<int>(1);
  take_documents(stream, w, scratch.take<Span>(num_spans(w)), in);
  forward(stream, w, o, lse, in, a);
}

void wgmma_attention_backward(Queue& queue, const AttentionInputs& grad, const Tensor& d_o, const AttentionInputs& in,
                              const Tensor& o, const Tensor& lse, const AttentionShape& a) {
  constexpr int64_t kMostGradients = int64_t{1} << 30;  // bytes; more heads go one after the other
  const cudaStream_t stream = queue.stream();
  Work w = work(a);
  const int all = w.num_heads;
  const int64_t head_bytes = Backward::tiles_before(w.waves()) * kPairBox;
  const int at_once = static_cast<int>(std::clamp<int64_t>(kMostGradients / head_bytes, 1, all));
  const size_t queries = static_cast<size_t>(all) * static_cast<size_t>(w.waves() * kWave);
  const size_t gradients = static_cast<size_t>(at_once * head_bytes),
               shares = static_cast<size_t>(all * a.tokens * kRope);
  Scratch scratch(queue, Scratch::total(sizeof(int), num_spans(w) * sizeof(Span), queries * sizeof(Stats), gradients,
                                        shares * sizeof(float)));
  w.counter = scratch.take<int>(1);
  take_documents(stream, w, scratch.take<Span>(num_spans(w)), in);
  Stats* stats = scratch.take<Stats>(queries);
  const Backward b{stats, scratch.take<uint8_t>(gradients)};
  float* d_rope_HTR = scratch.take<float>(shares);
  find_stats<<<dim3(static_cast<unsigned>(w.waves() * kWave / (kBlock / 8)), static_cast<unsigned>(all)), kBlock, 0,
               stream>>>(stats, rows<const half_t>(d_o), rows<const half_t>(o), lse.f32(), w);
  check_launch("attention_backward_input");
  for (; w.first_head < all; w.first_head += at_once) {
    w.num_heads = std::min(at_once, all - w.first_head);
    backward_keys(stream, w, b, grad.kv, d_rope_HTR, d_o, in, a);
    backward_queries(stream, w, b, grad.q, in, a);
  }
  sum_heads<half_t>(stream, grad.k_rope, d_rope_HTR, a.heads);
  check_launch("attention_backward_input");
}

}  // namespace sluice::cuda
