// Launches of the attention kernels for Hopper.
#pragma once
#include <algorithm>

#include "ops/attention.h"
#include "ops/cuda/attention_wgmma.cuh"
#include "ops/cuda/tensor_map.h"

namespace sluice::cuda::wgmma_attention {

/// A matrix of the contract as the copy engine sees it: sequence by sequence, `lines` tokens and 64 columns at once.
inline MatrixStack head_stack(const Tensor& t, const AttentionShape& a, int lines) {
  MatrixStack m;
  m.data = t.data;
  m.element_bytes = 2;
  m.length = t.cols();
  m.lines = a.tokens;
  m.count = a.batch;
  m.pitch = t.ld * 2;
  m.step = a.tokens * m.pitch;
  m.box_lines = lines;
  return m;
}
inline CUtensorMap head_map(const Tensor& t, const AttentionShape& a, int lines) {
  return tensor_map(head_stack(t, a, lines));
}

/// As many blocks as the GPU runs at once; they deal out the work among themselves, counting from 0.
template <class... Parameters, class... Values>
void launch_persistent(cudaStream_t stream, void (*kernel)(Parameters...), size_t memory, int threads, int* counter,
                       const char* what, const Values&... values) {
  int device, processors;
  check_cuda(cudaGetDevice(&device), "the current GPU");
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "its size");
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(memory)), what);
  check_cuda(cudaMemsetAsync(counter, 0, sizeof(int), stream), what);
  kernel<<<static_cast<unsigned>(processors), static_cast<unsigned>(threads), memory, stream>>>(values...);
  check_launch(what);
}

void forward(cudaStream_t stream, const Work& w, const Tensor& o, const Tensor& lse, const AttentionInputs& in,
             const AttentionShape& a);

}  // namespace sluice::cuda::wgmma_attention
