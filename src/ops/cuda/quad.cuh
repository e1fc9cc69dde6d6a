// Exchanges between the four lanes that share a row of a tensor-core product's outputs.
#pragma once
#include <cstdint>

namespace sluice::cuda {

/// v[j] of lane i of a quad becomes v[i] of lane j.
__device__ __forceinline__ void transpose_quad(uint32_t (&v)[4], int lane) {
  const auto swap = [&](uint32_t& low, uint32_t& high, int bit) {
    const bool is_high = lane & bit;
    const uint32_t got = __shfl_xor_sync(0xffffffffu, is_high ? low : high, bit);
    low = is_high ? got : low;
    high = is_high ? high : got;
  };
  swap(v[0], v[1], 1), swap(v[2], v[3], 1);
  swap(v[0], v[2], 2), swap(v[1], v[3], 2);
}

}  // namespace sluice::cuda
