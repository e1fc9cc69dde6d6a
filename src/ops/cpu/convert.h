// Blocks of f32|bf16 tensors as float32 for the kernels that call gemm_f32.
#pragma once
#include "base/tensor.h"
#include "ops/linear.h"

namespace sluice::cpu {

/// A float32 matrix in memory.
struct Block {
  const float* data;
  int64_t ld;
};

/// y[i] = x[i]; f32|bf16 in any mix.
void convert(void* y, DType y_type, const void* x, DType x_type, int64_t n);

/// The whole matrix `t` as float32: itself, or converted into `scratch` (rows * cols floats).
Block as_f32(const Tensor& t, float* scratch);

/// Floats of scratch that as_f32 needs for `t`.
inline int64_t f32_scratch(const Tensor& t) { return t.dtype == DType::f32 ? 0 : t.size(); }

/// y (=|+=) the packed float32 matrix `x` of y's rows and columns.
void store_f32(Tensor y, const float* x, Out out);

}  // namespace sluice::cpu
