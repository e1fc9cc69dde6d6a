// Numbers of FP8 groups (ops/quant.h) in kernels.
#pragma once
#include <cuda_fp8.h>

#include "ops/cuda/kernel.cuh"

namespace sluice::cuda {

constexpr int kGroup = 128;  // elements along one side of a group

inline int64_t groups(int64_t n) { return (n + kGroup - 1) / kGroup; }

/// The scale of a group whose largest magnitude is `amax`.
__device__ inline float group_scale(float amax, bool power_of_two) {
  const float s = fmaxf(amax, 1e-4f) / 448.0f;
  return power_of_two ? __uint_as_float((__float_as_uint(s) + 0x7fffffu) >> 23 << 23) : s;
}

/// The larger magnitude; a NaN in x does not count.
__device__ inline float larger_magnitude(float amax, float x) { return fmaxf(amax, fabsf(x)); }

__device__ inline uint8_t encode(float x) { return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); }

/// Exact: every E4M3 value is a half-precision number.
__device__ inline float decode(uint8_t code) { return __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3))); }

/// Values that are quantised: of a tensor, or of codes with one scale per row and 128 columns.
template <class T>
struct Values {
  Rows<const T> x;
  __device__ float operator()(int64_t row, int64_t col) const { return load(x[row] + col); }
};
struct CodedValues {
  const uint8_t* code;
  const float* scale;
  int64_t cols, scale_cols;
  __device__ float operator()(int64_t row, int64_t col) const {
    return decode(code[row * cols + col]) * scale[row * scale_cols + col / kGroup];
  }
};

}  // namespace sluice::cuda
