// Moving token rows to expert order and back (specification 3.3, 3.9).
#include "ops/cuda/kernel.cuh"
#include "ops/moe.h"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostExperts = 1024;
constexpr int kSlots = 512, kSlotWarps = kSlots / 32;  // slots that a block deals with, a thread each

/// Number of slots of each expert before every warp's; after them all, of the block. `count`: kSlotWarps x E. All
/// threads call. Returns this thread's place among the slots of its expert in its warp.
__device__ int count_block(uint16_t* count, const int32_t* choice, bool exists, int E) {
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  for (int i = static_cast<int>(threadIdx.x); i < kSlotWarps * E; i += kSlots) count[i] = 0;
  __syncthreads();
  const int e = exists ? *choice : -1;
  const unsigned same = __match_any_sync(~0u, e);
  const int place = __popc(same & ((1u << lane) - 1));
  if (exists && place == 0) count[warp * E + e] = static_cast<uint16_t>(__popc(same));
  __syncthreads();
  return place;
}

// Block b counts the slots of each expert among its own.
__global__ void count_slots(int32_t* count_BE, const int32_t* choice_TK, int64_t slots, int E) {
  extern __shared__ uint16_t count[];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSlots + threadIdx.x;
  count_block(count, choice_TK + i, i < slots, E);
  for (int e = static_cast<int>(threadIdx.x); e < E; e += kSlots) {
    int total = 0;
    for (int w = 0; w < kSlotWarps; ++w) total += count[w * E + e];
    count_BE[blockIdx.x * static_cast<int64_t>(E) + e] = total;
  }
}

// One block, a thread for each expert: counts become the first row of the expert's slots of each block.
__global__ void sum_counts(int32_t* offsets_E1, int32_t* count_BE, int64_t num_blocks, int E) {
  extern __shared__ int32_t total[];
  const int e = static_cast<int>(threadIdx.x);
  int32_t mine = 0;
  if (e < E)
#pragma unroll 8
    for (int64_t b = 0; b < num_blocks; ++b) mine += count_BE[b * E + e];
  total[e] = mine;
  __syncthreads();
  for (int o = 1; o < static_cast<int>(blockDim.x); o *= 2) {  // totals become sums of all up to here
    const int32_t before = e >= o ? total[e - o] : 0;
    __syncthreads();
    total[e] += before;
    __syncthreads();
  }
  if (e >= E) return;
  int32_t next = total[e] - mine;
  offsets_E1[e] = next;
  if (e == E - 1) offsets_E1[E] = total[e];
#pragma unroll 8
  for (int64_t b = 0; b < num_blocks; ++b) {
    const int32_t count = count_BE[b * E + e];
    count_BE[b * E + e] = next;
    next += count;
  }
}

// Block b gives its slots rows, in ascending order within each expert.
__global__ void place_slots(int32_t* row_of_TK, int32_t* slot_of_R, const int32_t* first_BE, const int32_t* choice_TK,
                            int64_t slots, int E) {
  extern __shared__ uint16_t count[];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSlots + threadIdx.x;
  const int place = count_block(count, choice_TK + i, i < slots, E);
  if (i >= slots) return;
  const int32_t e = choice_TK[i];
  int32_t row = first_BE[blockIdx.x * static_cast<int64_t>(E) + e] + place;
  for (int w = 0; w < static_cast<int>(threadIdx.x / 32); ++w) row += count[w * E + e];
  row_of_TK[i] = row;
  slot_of_R[row] = static_cast<int32_t>(i);
}

constexpr int kPermuteThreads = 1024;
/// Slots up to which one block is faster than three launches.
constexpr int64_t kFewSlots = 4096;

// One block does all of it: a thread takes the slots of one of `parts` parts that chose its expert.
__global__ void permute_few(int32_t* offsets_E1, int32_t* row_of_TK, int32_t* slot_of_R, const int32_t* choice_TK,
                            int slots, int E, int parts) {
  wait_for_previous();
  extern __shared__ int32_t shared[];  // choices, counts (parts, E), offsets (E + 1)
  int32_t *choice = shared, *count = choice + slots, *offset = count + parts * E;
  const int e = static_cast<int>(threadIdx.x) % E, part = static_cast<int>(threadIdx.x) / E;
  const int size = (slots + parts - 1) / parts, begin = part * size, end = min(begin + size, slots);
  for (int i = static_cast<int>(threadIdx.x); i < slots; i += kPermuteThreads) choice[i] = choice_TK[i];
  __syncthreads();
  int mine = 0;
  if (part < parts) {
    for (int i = begin; i < end; ++i) mine += choice[i] == e;
    count[part * E + e] = mine;
  }
  __syncthreads();
  if (part == 0) {
    int all = 0;
    for (int p = 0; p < parts; ++p) all += count[p * E + e];
    offset[e + 1] = all;
  }
  __syncthreads();
  if (threadIdx.x < 32) {  // sums of counts, 32 experts at a time
    int before = 0;
    for (int first = 0; first < E; first += 32) {
      const int at = first + static_cast<int>(threadIdx.x);
      int up_to = at < E ? offset[at + 1] : 0;
#pragma unroll
      for (int o = 1; o < 32; o *= 2) {
        const int other = __shfl_up_sync(~0u, up_to, o);
        if (static_cast<int>(threadIdx.x) >= o) up_to += other;
      }
      if (at < E) offset[at + 1] = before + up_to;
      before += __shfl_sync(~0u, up_to, 31);
    }
    if (threadIdx.x == 0) offset[0] = 0;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i <= E; i += kPermuteThreads) offsets_E1[i] = offset[i];
  if (part >= parts || mine == 0) return;
  int row = offset[e];
  for (int p = 0; p < part; ++p) row += count[p * E + e];
  for (int i = begin; i < end; ++i)
    if (choice[i] == e) {
      row_of_TK[i] = row;
      slot_of_R[row++] = i;
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
  const int64_t slots = choice_TK.size();
  const int E = static_cast<int>(offsets_E1.size()) - 1;
  check(E <= kMostExperts, "moe_permute: expected at most 1024 experts");
  if (slots == 0)
    return check_cuda(cudaMemsetAsync(offsets_E1.data, 0, offsets_E1.bytes(), s.queue().stream()), "moe_permute");
  const unsigned grid = blocks(slots, kSlots);
  const size_t shared = static_cast<size_t>(kSlotWarps * E) * sizeof(uint16_t);
  int32_t* count_BE = static_cast<int32_t*>(s.queue().scratch(grid * static_cast<size_t>(E) * sizeof(int32_t)));
  const int32_t* choice = choice_TK.ptr<int32_t>();
  const cudaStream_t stream = s.queue().stream();
  if (slots <= kFewSlots) {
    const int parts = kPermuteThreads / E;
    launch_early(stream, permute_few, 1, kPermuteThreads,
                 static_cast<size_t>(slots + (parts + 1) * E + 1) * sizeof(int32_t), offsets_E1.ptr<int32_t>(),
                 row_of_TK.ptr<int32_t>(), slot_of_R.ptr<int32_t>(), choice, static_cast<int>(slots), E, parts);
    return check_launch("moe_permute");
  }
  const unsigned threads = row_threads(E, kMostExperts);
  count_slots<<<grid, kSlots, shared, stream>>>(count_BE, choice, slots, E);
  sum_counts<<<1, threads, threads * sizeof(int32_t), stream>>>(offsets_E1.ptr<int32_t>(), count_BE, grid, E);
  place_slots<<<grid, kSlots, shared, stream>>>(row_of_TK.ptr<int32_t>(), slot_of_R.ptr<int32_t>(), count_BE, choice,
                                                slots, E);
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
