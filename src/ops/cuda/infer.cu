// Attention over the latent cache. Every sum runs in an order that depends on positions alone: rows are row-invariant.
#include "ops/infer.h"

#include "ops/cuda/fp8.cuh"
#include "ops/cuda/latent.cuh"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int64_t kSplit = 512;  // positions of a split, where scores lie in shared memory

Places places_of(const CachePlaces& p) {
  return {p.position_T.ptr<int32_t>(), p.sequence_T.ptr<int32_t>(), rows<const int32_t>(p.pages_SP)};
}

/// Elements of kv_b, scales applied.
struct CodedWeight {
  const uint8_t* code;
  const float* scale;
  int64_t cols;
  __device__ float operator()(int64_t row, int64_t col) const {
    return decode(code[row * cols + col]) * scale[row / kGroup * ((cols + kGroup - 1) / kGroup) + col / kGroup];
  }
};

template <class C>
__global__ void write_rows(Rows<C> cache, Rows<const float> x, Places places, int64_t width) {
  const int64_t t = blockIdx.x;
  C* out = cache[places.row(t, places.position_T[t])];
  for (int64_t i = threadIdx.x; i < width; i += kThreads) store(out + i, x[t][i]);
}

constexpr int kColumns = 128;

// A block takes a row, a head and kColumns columns: latent c = sum over n, ascending, of q_n W_UK(n, c).
template <class Weight>
__global__ void absorb(float* qa, const float* q, Weight w, LatentShape a) {
  const int64_t t = blockIdx.x, h = blockIdx.y, c = static_cast<int64_t>(blockIdx.z) * kColumns + threadIdx.x;
  const float* in = q + (t * a.heads + h) * (a.nope + a.rope);
  float* out = qa + (t * a.heads + h) * a.row();
  const int64_t row = h * (a.nope + a.value);
  if (c < a.latent) {
    float sum = 0;
#pragma unroll 16
    for (int64_t n = 0; n < a.nope; ++n) sum = fmaf(in[n], w(row + n, c), sum);
    out[c] = sum;
  }
  if (blockIdx.z == 0)
    for (int64_t r = threadIdx.x; r < a.rope; r += kColumns) out[a.latent + r] = in[a.nope + r];
}

// A warp takes an output: o_v = W_UV(v) u.
template <class Weight>
__global__ void expand(float* o, const float* u, Weight w, LatentShape a) {
  const int64_t t = blockIdx.x, h = blockIdx.y, v = static_cast<int64_t>(blockIdx.z) * kWarps + threadIdx.x / 32;
  if (v >= a.value) return;
  const float* in = u + (t * a.heads + h) * a.latent;
  const int64_t row = h * (a.nope + a.value) + a.nope + v;
  float sum = 0;
#pragma unroll 8
  for (int64_t c = threadIdx.x % 32; c < a.latent; c += 32) sum = fmaf(in[c], w(row, c), sum);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) o[(t * a.heads + h) * a.value + v] = sum;
}

// A block takes a row, a head and a split of its positions.
template <class C>
__global__ void attend_split(Partial out, const float* qa, Rows<const C> cache, Places places, LatentShape a) {
  __shared__ float score[kSplit];
  const int64_t t = blockIdx.x, h = blockIdx.y, split = blockIdx.z, begin = split * kSplit;
  const int64_t n = min(kSplit, static_cast<int64_t>(places.position_T[t]) + 1 - begin);
  if (n <= 0) return;
  const float* query = qa + (t * a.heads + h) * a.row();
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int64_t j = threadIdx.x / 32; j < n; j += kWarps) {
    const C* key = cache[places.row(t, begin + j)];
    float sum = 0;
    for (int64_t i = lane; i < a.row(); i += 32) sum = fmaf(query[i], load(key + i), sum);
    sum = warp_sum(sum);
    if (lane == 0) score[j] = sum * a.scale;
  }
  __syncthreads();
  float most = -INFINITY, total = 0;
  for (int64_t j = threadIdx.x; j < n; j += kThreads) most = fmaxf(most, score[j]);
  most = block_max(most);
  for (int64_t j = threadIdx.x; j < n; j += kThreads) total += score[j] = expf(score[j] - most);
  total = block_sum(total);
  const int64_t at = (t * a.heads + h) * out.splits + split;
  for (int64_t c = threadIdx.x; c < a.latent; c += kThreads) {
    float sum = 0;
    for (int64_t j = 0; j < n; ++j) sum = fmaf(score[j], load(cache[places.row(t, begin + j)] + c), sum);
    out.u[at * a.latent + c] = sum;
  }
  if (threadIdx.x == 0) out.sums[at] = make_float2(most, total);
}

/// `has_single`: whether rows with one split have their u already.
__global__ void merge_splits(float* u, Partial in, const int32_t* position_T, LatentShape a, bool has_single) {
  wait_for_previous();
  const int64_t t = blockIdx.x, h = blockIdx.y, first = (t * a.heads + h) * in.splits;
  const int64_t splits = in.rule.splits_at(position_T[t]);
  if (splits == 1 && has_single) return;
  float most = -INFINITY, total = 0;
  for (int64_t i = 0; i < splits; ++i) most = fmaxf(most, in.sums[first + i].x);
  for (int64_t i = 0; i < splits; ++i) total += in.sums[first + i].y * expf(in.sums[first + i].x - most);
  for (int64_t c = threadIdx.x; c < a.latent; c += kThreads) {
    float sum = 0;
#pragma unroll 4
    for (int64_t i = 0; i < splits; ++i)
      sum = fmaf(in.u[(first + i) * a.latent + c], expf(in.sums[first + i].x - most), sum);
    u[(t * a.heads + h) * a.latent + c] = sum / total;
  }
}

/// Rows of one sequence from position `begin` on.
__global__ void count_positions(int32_t* position_T, int32_t* sequence_T, int64_t begin, int64_t n) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (t >= n) return;
  position_T[t] = static_cast<int32_t>(begin + t);
  sequence_T[t] = 0;
}

dim3 head_grid(int64_t rows, const LatentShape& a) {
  return dim3(static_cast<unsigned>(rows), static_cast<unsigned>(a.heads));
}

/// Most bytes of partial results; rows are taken in pieces that keep to it.
constexpr int64_t kPartialBytes = int64_t{256} << 20;

int64_t rows_of_piece(int64_t splits, const LatentShape& a) {
  return std::max<int64_t>(1,
                           kPartialBytes / (a.heads * splits * (a.latent + 2) * static_cast<int64_t>(sizeof(float))));
}

/// Which kernels attend.
enum class Kernels { plain, tensor, wgmma };

Kernels kernels_for(const LatentRows& x, const LatentShape& a) {
  if (x.cache.dtype != DType::bf16) return Kernels::plain;
  return is_wgmma_latent(x, a) ? Kernels::wgmma : is_tensor_latent(a) ? Kernels::tensor : Kernels::plain;
}

SplitRule rule_of(Kernels kernels, const LatentShape& a) {
  return kernels == Kernels::wgmma ? wgmma_latent_rule(a)
                                   : equal_splits(kernels == Kernels::tensor ? kTensorSplit : kSplit);
}

/// Scratch memory of attend(). No row lies beyond `positions`.
size_t attend_bytes(const LatentRows& x, int64_t positions, const LatentShape& a) {
  const int64_t splits = rule_of(kernels_for(x, a), a).most_splits(positions);
  const size_t parts = static_cast<size_t>(std::min(x.n, rows_of_piece(splits, a)) * a.heads * splits);
  return Scratch::total(parts * static_cast<size_t>(a.latent) * sizeof(float), parts * sizeof(float2));
}

void attend(cudaStream_t s, Scratch& scratch, const LatentRows& x, int64_t positions, const LatentShape& a) {
  const Kernels kernels = kernels_for(x, a);
  const SplitRule rule = rule_of(kernels, a);
  const int64_t splits = rule.most_splits(positions), most = std::min(x.n, rows_of_piece(splits, a));
  const size_t parts = static_cast<size_t>(most * a.heads * splits);
  float* values = scratch.take<float>(parts * static_cast<size_t>(a.latent));
  const Partial partial{values, scratch.take<float2>(parts), splits, rule};
  for (int64_t t = 0; t < x.n; t += most) {
    LatentRows piece = x;
    piece.n = std::min(most, x.n - t);
    piece.u += t * a.heads * a.latent;
    piece.qa += t * a.heads * a.row();
    piece.places.position_T += t;
    piece.places.sequence_T += t;
    dim3 grid = head_grid(piece.n, a);
    grid.z = static_cast<unsigned>(splits);
    if (kernels == Kernels::wgmma)
      wgmma_latent_splits(s, partial, piece, a);
    else if (kernels == Kernels::tensor)
      tensor_latent_splits(s, partial, piece, a);
    else if (x.cache.dtype == DType::bf16)
      attend_split<<<grid, kThreads, 0, s>>>(partial, piece.qa, rows<const half_t>(x.cache), piece.places, a);
    else
      attend_split<<<grid, kThreads, 0, s>>>(partial, piece.qa, rows<const float>(x.cache), piece.places, a);
    if (splits > 1 || kernels != Kernels::wgmma)
      launch_early(s, merge_splits, head_grid(piece.n, a), kThreads, 0, piece.u, partial, piece.places.position_T, a,
                   kernels == Kernels::wgmma);
  }
  check_launch("infer_attention");
}

void absorb_any(cudaStream_t s, float* qa, const float* q, int64_t n, const Matrix& w, const LatentShape& a) {
  dim3 grid = head_grid(n, a);
  grid.z = blocks(a.latent, kColumns);
  if (w.format == Format::f32)
    absorb<<<grid, kColumns, 0, s>>>(qa, q, Values<float>{rows<const float>(w.tensor())}, a);
  else if (w.format == Format::bf16)
    absorb<<<grid, kColumns, 0, s>>>(qa, q, Values<half_t>{rows<const half_t>(w.tensor())}, a);
  else
    absorb<<<grid, kColumns, 0, s>>>(qa, q, CodedWeight{static_cast<const uint8_t*>(w.data), w.scales, w.cols}, a);
  check_launch("infer_absorb_query");
}

void expand_any(cudaStream_t s, float* o, const float* u, int64_t n, const Matrix& w, const LatentShape& a) {
  dim3 grid = head_grid(n, a);
  grid.z = blocks(a.value, kWarps);
  if (w.format == Format::f32)
    expand<<<grid, kThreads, 0, s>>>(o, u, Values<float>{rows<const float>(w.tensor())}, a);
  else if (w.format == Format::bf16)
    expand<<<grid, kThreads, 0, s>>>(o, u, Values<half_t>{rows<const half_t>(w.tensor())}, a);
  else
    expand<<<grid, kThreads, 0, s>>>(o, u, CodedWeight{static_cast<const uint8_t*>(w.data), w.scales, w.cols}, a);
  check_launch("infer_expand_value");
}

void check_format(const Matrix& w) {
  check(w.format == Format::f32 || w.format == Format::bf16 || w.format == Format::fp8_128,
        "infer on a GPU: expected kv_b in f32, bf16 or fp8");
}

/// Rows of a prompt that are taken at a time: bounds the scratch memory.
constexpr int64_t kPromptRows = 64;

}  // namespace

void infer_cache_rows(Stream& s, Tensor cache, const Tensor& x_TA, const CachePlaces& places) {
  if (x_TA.rows() == 0) return;
  const unsigned n = static_cast<unsigned>(x_TA.rows());
  const cudaStream_t stream = s.queue().stream();
  const Rows<const float> x = rows<const float>(x_TA);
  if (cache.dtype == DType::bf16)
    write_rows<<<n, kThreads, 0, stream>>>(rows<half_t>(cache), x, places_of(places), x_TA.cols());
  else
    write_rows<<<n, kThreads, 0, stream>>>(rows<float>(cache), x, places_of(places), x_TA.cols());
  check_launch("infer_cache_rows");
}

void infer_absorb_query(Stream& s, Tensor qa, const Tensor& q, const Matrix& kv_b, const LatentShape& a) {
  check_format(kv_b);
  if (q.rows() > 0) absorb_any(s.queue().stream(), qa.f32(), q.f32(), q.rows(), kv_b, a);
}

void infer_attention(Stream& s, Tensor u, const Tensor& qa, const Tensor& cache, const CachePlaces& places,
                     const LatentShape& a) {
  const int64_t positions = places.pages_SP.cols() * kPageTokens;
  if (u.rows() == 0) return;
  const LatentRows x{u.f32(), qa.f32(), cache, places_of(places), u.rows()};
  Scratch scratch(s.queue(), attend_bytes(x, positions, a));
  attend(s.queue().stream(), scratch, x, positions, a);
}

void infer_expand_value(Stream& s, Tensor o, const Tensor& u, const Matrix& kv_b, const LatentShape& a) {
  check_format(kv_b);
  if (u.rows() > 0) expand_any(s.queue().stream(), o.f32(), u.f32(), u.rows(), kv_b, a);
}

// In float32 in the absorbed form, which gives the same up to rounding: slower than expanding keys for many rows.
void infer_prompt_attention(Stream& s, Tensor o, const Tensor& q, const Tensor& cache, const Tensor& pages_P,
                            int64_t begin, const Matrix& kv_b, const LatentShape& a) {
  check_format(kv_b);
  const int64_t n = q.rows(), most = std::min(n, kPromptRows), positions = begin + n;
  if (n == 0) return;
  if (cache.dtype == DType::bf16 && kv_b.format == Format::bf16 && is_wgmma_prompt(a))
    return wgmma_prompt_attention(s.queue(), o, q, cache, pages_P, begin, kv_b, a);
  if (cache.dtype == DType::bf16 && kv_b.format == Format::bf16 && is_tensor_prompt(a))
    return tensor_prompt_attention(s.queue(), o, q, cache, pages_P, begin, kv_b, a);
  const size_t count = static_cast<size_t>(most), heads = static_cast<size_t>(a.heads);
  const size_t queries = count * heads * static_cast<size_t>(a.row()),
               values = count * heads * static_cast<size_t>(a.latent);
  LatentRows x{nullptr, nullptr, cache, {nullptr, nullptr, rows<const int32_t>(pages_P)}, most};
  Scratch scratch(s.queue(), Scratch::total(queries * sizeof(float), values * sizeof(float), count * sizeof(int32_t),
                                            count * sizeof(int32_t)) +
                                 attend_bytes(x, positions, a));
  float* qa = scratch.take<float>(queries);
  x.qa = qa;
  x.u = scratch.take<float>(values);
  int32_t *position_T = scratch.take<int32_t>(count), *sequence_T = scratch.take<int32_t>(count);
  x.places.position_T = position_T;
  x.places.sequence_T = sequence_T;
  const cudaStream_t stream = s.queue().stream();
  for (int64_t t = 0; t < n; t += most) {
    x.n = std::min(most, n - t);
    Scratch rest = scratch;
    count_positions<<<blocks(x.n, kThreads), kThreads, 0, stream>>>(position_T, sequence_T, begin + t, x.n);
    absorb_any(stream, qa, static_cast<const float*>(q.at(t)), x.n, kv_b, a);
    attend(stream, rest, x, positions, a);
    expand_any(stream, static_cast<float*>(o.at(t)), x.u, x.n, kv_b, a);
  }
}

}  // namespace sluice::cuda
