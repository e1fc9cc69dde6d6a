#include "ops/embedding.h"

#include "ops/cuda/kernel.cuh"

namespace sluice::cuda {
namespace {

template <class X, class W>
__global__ void forward(Rows<X> x, const int32_t* ids_T, Rows<const W> table, int64_t n, int64_t D) {
  const int64_t t = launch_row();
  if (t >= n) return;
  const W* row = table[ids_T[t]];
  for (int64_t i = threadIdx.x; i < D; i += blockDim.x) store(x[t] + i, load(row + i));
}

constexpr int kMostThreads = 512;

// The block of an id's first token adds all tokens of that id, in order. The ids are looked through by all threads, 32
// of them to a word of marks.
template <class X>
__global__ void backward_weight(Rows<float> dtable, Rows<const X> dx, const int32_t* ids_T, int64_t n, int64_t D) {
  const int64_t first = blockIdx.x;
  const int32_t id = ids_T[first];
  int seen = 0;
  for (int64_t t = threadIdx.x; t < first; t += blockDim.x) seen |= ids_T[t] == id;
  if (__syncthreads_or(seen)) return;
  __shared__ unsigned marks[kMostThreads / 32];
  for (int64_t begin = first; begin < n; begin += blockDim.x) {
    const int64_t mine = begin + threadIdx.x;
    const unsigned mark = __ballot_sync(~0u, mine < n && ids_T[mine] == id);
    if (!__syncthreads_or(mark != 0)) continue;  // also: the last marks have been used
    if (threadIdx.x % 32 == 0) marks[threadIdx.x / 32] = mark;
    __syncthreads();
    for (unsigned w = 0; w < blockDim.x / 32; ++w)
      for (unsigned left = marks[w]; left != 0; left &= left - 1) {
        const int64_t t = begin + w * 32 + __ffs(static_cast<int>(left)) - 1;
        for (int64_t i = threadIdx.x; i < D; i += blockDim.x) dtable[id][i] += load(dx[t] + i);
      }
  }
}

template <class X, class W>
void forward_as(cudaStream_t s, const Tensor& x, const Tensor& ids_T, const Tensor& table) {
  const RowLaunch l(x.rows(), x.cols());
  forward<<<l.grid, l.block, 0, s>>>(rows<X>(x), ids_T.ptr<int32_t>(), rows<const W>(table), x.rows(), x.cols());
}

}  // namespace

void embedding_forward(Stream& s, Tensor x, const Tensor& ids_T, const Matrix& table) {
  if (x.size() == 0) return;
  const Tensor w = table.tensor();
  const cudaStream_t stream = s.queue().stream();
  const bool f32_table = w.dtype == DType::f32;
  if (x.dtype == DType::f32)
    f32_table ? forward_as<float, float>(stream, x, ids_T, w) : forward_as<float, half_t>(stream, x, ids_T, w);
  else
    f32_table ? forward_as<half_t, float>(stream, x, ids_T, w) : forward_as<half_t, half_t>(stream, x, ids_T, w);
  check_launch("embedding_forward");
}

void embedding_backward_weight(Stream& s, const Matrix& dtable, const Tensor& dx, const Tensor& ids_T) {
  if (dx.size() == 0) return;
  const int64_t D = dx.cols();
  const unsigned n = static_cast<unsigned>(dx.rows());
  const Rows<float> table = rows<float>(dtable.tensor());
  const int32_t* ids = ids_T.ptr<int32_t>();
  const cudaStream_t stream = s.queue().stream();
  if (dx.dtype == DType::f32)
    backward_weight<<<n, row_threads(D, kMostThreads), 0, stream>>>(table, rows<const float>(dx), ids, dx.rows(), D);
  else
    backward_weight<<<n, row_threads(D, kMostThreads), 0, stream>>>(table, rows<const half_t>(dx), ids, dx.rows(), D);
  check_launch("embedding_backward_weight");
}

}  // namespace sluice::cuda
