// Attention of bf16 heads on tensor cores.
#pragma once
#include <cuda_runtime.h>

#include "ops/attention.h"

namespace sluice::cuda {

/// Whether the kernels are made for heads of this size and dtype.
bool is_tensor_attention(const AttentionShape& shape, DType dtype);

/// As in ops/attention.h.
void tensor_attention_forward(cudaStream_t s, const Tensor& o, const Tensor& lse, const AttentionInputs& in,
                              const AttentionShape& shape);

/// What the backward pass knows besides its inputs: log-sum-exp and d_o . o of every row and head (T, H), and where
/// each head leaves its share of the rope key's gradient, (H, T, rope) f32.
struct AttentionKnown {
  const float *lse, *delta;
  const int32_t* first_T;
  float* d_rope_HTR;
};
void tensor_attention_backward(cudaStream_t s, const AttentionInputs& grad, const Tensor& d_o,
                               const AttentionInputs& in, const AttentionKnown& known, const AttentionShape& shape);

}  // namespace sluice::cuda
