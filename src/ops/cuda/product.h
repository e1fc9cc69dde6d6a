// One matrix product, dense or grouped by expert, as its kernels see it:
//   y(i, j) (=|+=) sum over k of a(i, k) b(j, k)
// Experts own ranges of the rows i (forward, gradient of the input: b is the expert's matrix) or of the contraction k
// (gradient of the weight: y is the expert's matrix). The ranges are read on the GPU.
//
// An output is one chain of sums in ascending order of k, whatever the tile, the number of rows and their neighbours:
// products are row-invariant.
#pragma once
#include <cstdint>

#include "base/cuda/queue.h"
#include "ops/matrix.h"

namespace sluice::cuda {

constexpr int64_t kMaxExperts = 512;

/// The matrices of the experts, passed by value so that a launch needs no memory of its own.
struct Bank {
  void* data[kMaxExperts];
  float* scales[kMaxExperts];
};

/// What is multiplied. In memory, elements follow each other along k or along the output (i or j).
struct Operand {
  const void* data = nullptr;  // null: the expert's matrix
  int64_t ld = 0;
  bool along_k = true;
  bool is_f32 = false;    // else bf16, or codes in the FP8 kernel
  bool is_vector = true;  // whether 8 elements from any multiple of 8 on can be loaded at once
  // FP8: the scale of (i, k) is scale[i / group * outer + g * inner], g counting 128s of k.
  const float* scale = nullptr;
  int64_t group = 1, outer = 0, inner = 1;
};

struct Product {
  Operand a, b;
  void* y = nullptr;  // null: the expert's matrix
  int64_t ldy = 0;
  bool y_is_f32 = true, add = false;
  const int32_t* offsets_E1 = nullptr;  // null: one expert that owns everything
  int64_t experts = 1;
  bool by_depth = false;  // experts own ranges of k
  // Ranges of k begin at multiples of 128: that of expert e at 128 (offsets_E1[e] / 128 + e), its last 128 filled up
  // with zeros.
  bool in_groups = false;
  int64_t M = 0, N = 0, K = 0;
  Bank bank;
};

/// bf16 times bf16 on tensor cores, sums in float32.
void bf16_product(cudaStream_t s, const Product& p);
/// E4M3 codes on tensor cores, both sides along k: the sum of every 128 of k scaled and added in float32. Within 128 of
/// k products are exact; their sum is float32, or what Hopper's tensor cores make of it (specification 5.3).
void fp8_product(cudaStream_t s, const Product& p);
/// float32 and bf16 in any mix, float32 multiply-adds; slow.
void f32_product(cudaStream_t s, const Product& p);

}  // namespace sluice::cuda
