// Attention of bf16 heads of 128 + 64 columns (queries, keys) and 128 (values) on Hopper's own instructions.
#pragma once
#include <cuda_runtime.h>

#include "base/cuda/queue.h"
#include "ops/attention.h"

namespace sluice::cuda {

/// Whether the kernels are made for heads like these: sizes, dtype, and addresses and rows in multiples of 16 bytes.
bool is_wgmma_attention(const AttentionInputs& in, const Tensor& o, const AttentionShape& shape);

/// As in ops/attention.h.
void wgmma_attention_forward(Queue& queue, const Tensor& o, const Tensor& lse, const AttentionInputs& in,
                             const AttentionShape& shape);

namespace wgmma_attention {
struct Work;
void forward(cudaStream_t stream, const Work& w, const Tensor& o, const Tensor& lse, const AttentionInputs& in,
             const AttentionShape& a);
}  // namespace wgmma_attention

}  // namespace sluice::cuda
