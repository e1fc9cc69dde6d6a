// The one wall to the BLAS: float32 matrix products for training, from oneDNN, on the calling thread only.
#pragma once
#include <cstdint>
#include <string>

namespace sluice::cpu {

/// Row-major C (m, n) = op(A) (m, k) op(B) (k, n) + beta C; leading dimensions in elements. Any sizes >= 0.
void gemm_f32(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
              int64_t ldb, float beta, float* c, int64_t ldc);

/// Which library, version and instruction set gemm_f32 runs on, for `sluice bench`.
std::string gemm_description();

}  // namespace sluice::cpu
