// The products of ops/cuda/product.h at the speed of Hopper's tensor cores: wgmma on tiles that the copy engine brings.
#pragma once
#include "ops/cuda/product.h"

namespace sluice::cuda {

/// Queues bf16 times bf16 if the matrices are laid out for it: addresses and row strides in multiples of 16 bytes, the
/// experts' matrices at equal distances. Returns whether they were, which does not depend on the number of rows.
bool wgmma_bf16_product(cudaStream_t s, const Product& p);
/// The same of E4M3 codes; both sides along k.
bool wgmma_fp8_product(cudaStream_t s, const Product& p);

}  // namespace sluice::cuda
