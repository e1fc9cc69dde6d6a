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

/// Two and eight codes, the first in the lowest byte.
__device__ inline uint32_t encode_2(float a, float b) {
  return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
}
__device__ inline uint2 encode_8(const float (&x)[8]) {
  return make_uint2(encode_2(x[0], x[1]) | encode_2(x[2], x[3]) << 16, encode_2(x[4], x[5]) | encode_2(x[6], x[7])
                                                                                                  << 16);
}

/// x /= scale. By a power of two multiplying is the same and much faster.
template <int N>
__device__ inline void divide(float (&x)[N], float scale, bool power_of_two) {
  if (power_of_two) {
    const float factor = 1.0f / scale;
#pragma unroll
    for (float& v : x) v *= factor;
  } else {
#pragma unroll
    for (float& v : x) v /= scale;
  }
}

/// Exact: every E4M3 value is a half-precision number.
__device__ inline float decode(uint8_t code) { return __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3))); }

/// Values of a tensor.
template <class T>
struct Values {
  Rows<const T> x;
  __device__ float operator()(int64_t row, int64_t col) const { return load(x[row] + col); }
};

}  // namespace sluice::cuda
