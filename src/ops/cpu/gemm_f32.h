// The one wall to the BLAS: float32 matrix products for training, from oneDNN, on the calling thread only.
#pragma once
#include <cstdint>
#include <string>

namespace sluice::cpu {

/// A row-major matrix in memory, `ld` elements between rows; `transposed`: the product takes its transpose.
struct GemmOperand {
  const float* data;
  int64_t ld;
  bool transposed = false;
};

/// Sizes of a product: (m, k) times (k, n), all >= 0.
struct GemmShape {
  int64_t m, n, k;
};

/// Row-major C (m, n) = A B + beta C, `ldc` elements between the rows of C.
void gemm_f32(const GemmShape& shape, const GemmOperand& a, const GemmOperand& b, float beta, float* c, int64_t ldc);

/// Which library, version and instruction set gemm_f32 runs on, for `sluice bench`.
std::string gemm_description();

}  // namespace sluice::cpu
