// Moving token rows to expert order and back (specification 3.3, 3.9).
#include "ops/cuda/kernel.cuh"
#include "ops/moe.h"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// Block e counts the slots of expert e.
__global__ void count_slots(int32_t* count_E, const int32_t* choice_TK, int64_t slots) {
  int count = 0;
  for (int64_t i = threadIdx.x; i < slots; i += kThreads) count += choice_TK[i] == static_cast<int32_t>(blockIdx.x);
  count = block_sum(count);
  if (threadIdx.x == 0) count_E[blockIdx.x] = count;
}

__global__ void sum_counts(int32_t* offsets_E1, const int32_t* count_E, int64_t E) {
  int32_t offset = 0;
  for (int64_t e = 0; e <= E; ++e) {
    offsets_E1[e] = offset;
    if (e < E) offset += count_E[e];
  }
}

// Block e deals the rows of expert e out to its slots in ascending order.
__global__ void place_slots(int32_t* row_of_TK, int32_t* slot_of_R, const int32_t* offsets_E1, const int32_t* choice_TK,
                            int64_t slots) {
  __shared__ int before[kWarps + 1];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int32_t e = static_cast<int32_t>(blockIdx.x);
  int32_t next = offsets_E1[e];
  if (next == offsets_E1[e + 1]) return;
  for (int64_t begin = 0; begin < slots; begin += kThreads) {
    const int64_t i = begin + threadIdx.x;
    const bool mine = i < slots && choice_TK[i] == e;
    const unsigned votes = __ballot_sync(~0u, mine);
    __syncthreads();  // the last round's counts have been read
    if (lane == 0) before[warp + 1] = __popc(votes);
    __syncthreads();
    int32_t row = next + __popc(votes & ((1u << lane) - 1));
    for (int w = 0; w < warp; ++w) row += before[w + 1];
    for (int w = 0; w < kWarps; ++w) next += before[w + 1];
    if (!mine) continue;
    row_of_TK[i] = row;
    slot_of_R[row] = static_cast<int32_t>(i);
  }
}

__global__ void add_counts(int64_t* counts_E, const int32_t* offsets_E1, int64_t E) {
  const int64_t e = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (e < E) counts_E[e] += offsets_E1[e + 1] - offsets_E1[e];
}

template <int N, class T>
__global__ void gather(Rows<T> x_RD, Rows<const T> x_TD, const int32_t* slot_of_R, int64_t R, int64_t D, int64_t K) {
  const int64_t r = launch_row();
  if (r >= R) return;
  const T* x = x_TD[slot_of_R[r] / K];
  for (int64_t i = threadIdx.x * N; i < D; i += blockDim.x * N) {
    float v[N];
    load_n<N>(x + i, v);
    store_n<N>(x_RD[r] + i, v);
  }
}

// out (=|+=) sum over k of weight[k] * rows[row[k]]; weights of 1 where weight is null.
template <int N, class T>
__global__ void weighted_sum(Rows<T> out, Rows<const T> in, const int32_t* row_of_TK, const float* weight_TK, int64_t n,
                             int64_t D, int64_t K, bool add) {
  const int64_t t = launch_row();
  if (t >= n) return;
  for (int64_t i = threadIdx.x * N; i < D; i += blockDim.x * N) {
    float total[N] = {};
    if (add) load_n<N>(out[t] + i, total);
    for (int64_t k = 0; k < K; ++k) {
      float v[N];
      load_n<N>(in[row_of_TK[t * K + k]] + i, v);
      const float w = weight_TK ? weight_TK[t * K + k] : 1.0f;
#pragma unroll
      for (int j = 0; j < N; ++j) total[j] += w * v[j];
    }
    store_n<N>(out[t] + i, total);
  }
}

// Row r: d_row = weight dy, dweight = dy . y.
template <int N, class T>
__global__ void scale_and_dot(Rows<T> dy_RD, float* dweight_TK, Rows<const T> dy_TD, Rows<const T> y_RD,
                              const float* weight_TK, const int32_t* slot_of_R, int64_t D, int64_t K) {
  const int64_t r = blockIdx.x;
  const int32_t slot = slot_of_R[r];
  const float w = weight_TK[slot];
  const T* dy = dy_TD[slot / K];
  float dot = 0;
  for (int64_t i = threadIdx.x * N; i < D; i += blockDim.x * N) {
    float d[N], y[N];
    load_n<N>(dy + i, d);
    load_n<N>(y_RD[r] + i, y);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      dot += d[j] * y[j];
      d[j] *= w;
    }
    store_n<N>(dy_RD[r] + i, d);
  }
  dot = block_sum(dot);
  if (threadIdx.x == 0) dweight_TK[slot] = dot;
}

template <class T>
void gather_as(cudaStream_t s, const Tensor& x_RD, const Tensor& x_TD, const Tensor& slot_of_R, int64_t K) {
  const int64_t R = x_RD.rows(), D = x_RD.cols();
  const int32_t* slot = slot_of_R.ptr<int32_t>();
  if (are_vectors(x_RD, x_TD)) {
    const RowLaunch l(R, D / kVector);
    gather<kVector><<<l.grid, l.block, 0, s>>>(rows<T>(x_RD), rows<const T>(x_TD), slot, R, D, K);
  } else {
    const RowLaunch l(R, D);
    gather<1><<<l.grid, l.block, 0, s>>>(rows<T>(x_RD), rows<const T>(x_TD), slot, R, D, K);
  }
}

template <class T>
void weighted_sum_as(cudaStream_t s, const Tensor& out, const Tensor& in, const Tensor& row_of_TK, const float* weight,
                     bool add) {
  const int64_t n = out.rows(), D = out.cols(), K = row_of_TK.cols();
  const int32_t* row = row_of_TK.ptr<int32_t>();
  if (are_vectors(out, in)) {
    const RowLaunch l(n, D / kVector);
    weighted_sum<kVector><<<l.grid, l.block, 0, s>>>(rows<T>(out), rows<const T>(in), row, weight, n, D, K, add);
  } else {
    const RowLaunch l(n, D);
    weighted_sum<1><<<l.grid, l.block, 0, s>>>(rows<T>(out), rows<const T>(in), row, weight, n, D, K, add);
  }
}

void weighted_sum_any(Stream& s, const Tensor& out, const Tensor& in, const Tensor& row_of_TK, const float* weight,
                      Out mode) {
  if (out.size() == 0) return;
  const cudaStream_t stream = s.queue().stream();
  if (out.dtype == DType::f32)
    weighted_sum_as<float>(stream, out, in, row_of_TK, weight, mode == Out::add);
  else
    weighted_sum_as<half_t>(stream, out, in, row_of_TK, weight, mode == Out::add);
}

template <class T>
void scale_and_dot_as(cudaStream_t s, const Tensor& dy_RD, const Tensor& dweight_TK, const Tensor& dy_TD,
                      const Tensor& y_RD, const Tensor& weight_TK, const Tensor& slot_of_R) {
  const int64_t D = y_RD.cols(), K = weight_TK.cols();
  const unsigned R = static_cast<unsigned>(y_RD.rows());
  const int32_t* slot = slot_of_R.ptr<int32_t>();
  if (are_vectors(dy_RD, dy_TD, y_RD))
    scale_and_dot<kVector><<<R, row_threads(D / kVector), 0, s>>>(
        rows<T>(dy_RD), dweight_TK.f32(), rows<const T>(dy_TD), rows<const T>(y_RD), weight_TK.f32(), slot, D, K);
  else
    scale_and_dot<1><<<R, row_threads(D), 0, s>>>(rows<T>(dy_RD), dweight_TK.f32(), rows<const T>(dy_TD),
                                                  rows<const T>(y_RD), weight_TK.f32(), slot, D, K);
}

}  // namespace

void moe_permute(Stream& s, Tensor offsets_E1, Tensor row_of_TK, Tensor slot_of_R, const Tensor& choice_TK) {
  const int64_t E = offsets_E1.size() - 1, slots = choice_TK.size();
  int32_t *offset = offsets_E1.ptr<int32_t>(),
          *count_E = static_cast<int32_t*>(s.queue().scratch(static_cast<size_t>(E) * sizeof(int32_t)));
  const int32_t* choice = choice_TK.ptr<int32_t>();
  const cudaStream_t stream = s.queue().stream();
  count_slots<<<static_cast<unsigned>(E), kThreads, 0, stream>>>(count_E, choice, slots);
  sum_counts<<<1, 1, 0, stream>>>(offset, count_E, E);
  place_slots<<<static_cast<unsigned>(E), kThreads, 0, stream>>>(row_of_TK.ptr<int32_t>(), slot_of_R.ptr<int32_t>(),
                                                                 offset, choice, slots);
  check_launch("moe_permute");
}

void moe_count(Stream& s, Tensor counts_E, const Tensor& offsets_E1) {
  const int64_t E = counts_E.size();
  add_counts<<<blocks(E, kThreads), kThreads, 0, s.queue().stream()>>>(counts_E.ptr<int64_t>(),
                                                                       offsets_E1.ptr<int32_t>(), E);
  check_launch("moe_count");
}

void moe_gather_forward(Stream& s, Tensor x_RD, const Tensor& x_TD, const Tensor& slot_of_R, int64_t top_k) {
  if (x_RD.size() == 0) return;
  const cudaStream_t stream = s.queue().stream();
  x_RD.dtype == DType::f32 ? gather_as<float>(stream, x_RD, x_TD, slot_of_R, top_k)
                           : gather_as<half_t>(stream, x_RD, x_TD, slot_of_R, top_k);
  check_launch("moe_gather_forward");
}

void moe_gather_backward(Stream& s, Tensor dx_TD, const Tensor& dx_RD, const Tensor& row_of_TK, Out out) {
  weighted_sum_any(s, dx_TD, dx_RD, row_of_TK, nullptr, out);
  check_launch("moe_gather_backward");
}

void moe_combine_forward(Stream& s, Tensor y_TD, const Tensor& y_RD, const Tensor& weight_TK, const Tensor& row_of_TK,
                         Out out) {
  weighted_sum_any(s, y_TD, y_RD, row_of_TK, weight_TK.f32(), out);
  check_launch("moe_combine_forward");
}

void moe_combine_backward(Stream& s, Tensor dy_RD, Tensor dweight_TK, const Tensor& dy_TD, const Tensor& y_RD,
                          const Tensor& weight_TK, const Tensor& slot_of_R) {
  if (y_RD.size() == 0) return;
  const cudaStream_t stream = s.queue().stream();
  if (y_RD.dtype == DType::f32)
    scale_and_dot_as<float>(stream, dy_RD, dweight_TK, dy_TD, y_RD, weight_TK, slot_of_R);
  else
    scale_and_dot_as<half_t>(stream, dy_RD, dweight_TK, dy_TD, y_RD, weight_TK, slot_of_R);
  check_launch("moe_combine_backward");
}

}  // namespace sluice::cuda
