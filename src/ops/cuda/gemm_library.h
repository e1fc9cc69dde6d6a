// Dense products by cuBLASLt: for training, where the order of sums may depend on the shape. Inference products are to
// be row-invariant and stay with the kernels of ops/cuda/product.h.
#pragma once
#include "base/cuda/queue.h"
#include "ops/cuda/product.h"

namespace sluice::cuda {

/// Scratch memory that a product may use.
constexpr size_t kLibraryWorkspace = size_t{32} << 20;

/// Queues `p` if it is a product for the library: dense, bf16 or float32 on both sides, rows at addresses that are
/// multiples of 16 bytes. Returns whether it was. Products of float32 are not rounded to TF32. `workspace`:
/// kLibraryWorkspace bytes of scratch memory.
bool library_product(Queue& queue, const Product& p, void* workspace);

/// The same of FP8 codes that lie along k on both sides, with the library's own scales for as many numbers as
/// Operand::scale (in its own order: to be measured with scales that are all equal). Not used by training.
bool library_fp8_product(Queue& queue, const Product& p, void* workspace);

}  // namespace sluice::cuda
