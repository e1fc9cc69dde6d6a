// Attention of a prompt with expanded keys and values by the forward kernel of training (attention_wgmma_forward.cu).
// Its tiles are 128 positions from 0 on, and what a query sees does not depend on the queries beside it.
#include "ops/cuda/attention_wgmma_launch.h"
#include "ops/cuda/latent.cuh"

namespace sluice::cuda {
namespace {

using namespace wgmma_attention;

constexpr int kBlock = 256, kTilePositions = 128;
/// Most bytes of expanded keys and values, queries and outputs; more heads go one after the other.
constexpr int64_t kHeadBytes = int64_t{256} << 20;

/// `width` columns of every row, a block each; both addresses are for vectors.
template <class To, class From>
__global__ void convert_rows(Rows<To> to, Rows<const From> from, int64_t width) {
  for (int64_t i = threadIdx.x * kVector; i < width; i += kBlock * kVector) {
    float v[kVector];
    load_n<kVector>(from[blockIdx.x] + i, v);
    store_n<kVector>(to[blockIdx.x] + i, v);
  }
}

}  // namespace

bool is_wgmma_prompt(const LatentShape& a) {
  return a.nope == kNope && a.rope == kRope && a.value == kValue && a.latent % kVector == 0;
}

void wgmma_prompt_attention(Queue& queue, const Tensor& o, const Tensor& q, const Tensor& cache, const Tensor& pages_P,
                            int64_t begin, const Matrix& kv_b, const LatentShape& a) {
  const int64_t n = q.rows(), positions = begin + n, per_head = positions * (kNope + 2 * kValue + kWidth) * 2;
  const int64_t most = std::clamp<int64_t>(kHeadBytes / per_head, 1, a.heads);
  const auto size = [&](int64_t columns) { return static_cast<size_t>(positions * columns); };
  Scratch scratch(queue, Scratch::total(size(a.row()) * 2, size(most * (kNope + kValue)) * 2, size(most * kWidth) * 2,
                                        size(most * kValue) * 2, size(most) * sizeof(float), sizeof(int)));
  half_t* cached = scratch.take<half_t>(size(a.row()));
  half_t* kv = scratch.take<half_t>(size(most * (kNope + kValue)));
  half_t* queries = scratch.take<half_t>(size(most * kWidth));
  half_t* values = scratch.take<half_t>(size(most * kValue));
  float* lse = scratch.take<float>(size(most));
  Work w;
  w.counter = scratch.take<int>(1);
  w.tokens = static_cast<int>(positions);
  w.first_tile = static_cast<int>(begin / kTilePositions);
  w.rows = positions;
  w.scale = a.scale;
  const cudaStream_t s = queue.stream();
  gather_cached(s, cached, cache, pages_P, positions, a);
  const unsigned rows_of_grid = static_cast<unsigned>(n);
  for (int64_t h = 0; h < a.heads; h += most) {
    const int64_t heads = std::min(most, a.heads - h);
    expand_heads(s, kv, cached, positions, kv_b, h, heads, a);
    convert_rows<<<rows_of_grid, kBlock, 0, s>>>(
        Rows<half_t>{queries + begin * heads * kWidth, heads * kWidth},
        Rows<const float>{static_cast<const float*>(q.at(0, h * kWidth)), q.ld}, heads * kWidth);
    w.heads = w.num_heads = static_cast<int>(heads);
    const auto matrix = [&](void* data, int64_t columns) { return Tensor(data, DType::bf16, {positions, columns}); };
    AttentionInputs in{
        matrix(queries, heads * kWidth), matrix(kv, heads * (kNope + kValue)), matrix(cached + a.latent, kRope), {}};
    in.k_rope.ld = a.row();
    const Tensor out = matrix(values, heads * kValue);
    forward(s, w, out, Tensor(lse, {positions, heads}), in, {1, positions, heads, kNope, kRope, kValue, a.scale});
    convert_rows<<<rows_of_grid, kBlock, 0, s>>>(Rows<float>{static_cast<float*>(o.at(0, h * kValue)), o.ld},
                                                 Rows<const half_t>{values + begin * heads * kValue, heads * kValue},
                                                 heads * kValue);
  }
  check_launch("infer_prompt_attention");
}

}  // namespace sluice::cuda
