// Attention of bf16 heads of 128 + 64 columns (queries, keys) and 128 (values) on Hopper's own instructions.
#pragma once
#include "base/cuda/queue.h"
#include "ops/attention.h"

namespace sluice::cuda {

/// Whether the kernels are made for these heads: their sizes and dtype, and addresses and rows in multiples of 16
/// bytes.
bool is_wgmma_attention(const AttentionInputs& in, const Tensor& o, const AttentionShape& shape);

/// As in ops/attention.h. The outputs are laid out as the inputs must be.
void wgmma_attention_forward(Queue& queue, const Tensor& o, const Tensor& lse, const AttentionInputs& in,
                             const AttentionShape& shape);
void wgmma_attention_backward(Queue& queue, const AttentionInputs& grad, const Tensor& d_o, const AttentionInputs& in,
                              const Tensor& o, const Tensor& lse, const AttentionShape& shape);

}  // namespace sluice::cuda
