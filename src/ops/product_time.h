// How long a GPU takes for a product of matrices: the kernels of training by themselves, without quantising, beside the
// vendor's library.
#pragma once
#include <cstdint>

#include "base/stream.h"

namespace sluice {

/// rows x inputs times a weight of outputs x inputs, of the routed rows of `experts` where these are more than one; or
/// the gradient of that weight. FP8: codes with a scale for 1 x 128 of the rows and 128 x 128 of the weight, or for 128
/// x 1 of both sides of a gradient.
struct ProductCase {
  bool is_fp8 = false, is_gradient = false;
  int64_t rows = 0, outputs = 0, inputs = 0, experts = 1;
  double flops() const {
    return 2 * static_cast<double>(rows) * static_cast<double>(outputs) * static_cast<double>(inputs);
  }
};

struct ProductTime {
  double ours = 0, library = 0;  // seconds; 0: the library has no such product
};

/// Medians of `runs` calls of each in turn on random numbers. Outputs are bf16, gradients float32. `s`: of a GPU.
/// Throws Error when its memory is too small.
ProductTime product_time(Stream& s, const ProductCase& product, int64_t runs);

namespace cuda {
decltype(sluice::product_time) product_time;
}

}  // namespace sluice
