// Quantisation of one block. Values are finite and at most 2^28, far beyond what any format holds.
#pragma once
#include "base/dtype.h"
#include "ops/cpu/block_layout.h"

namespace sluice::cpu {

/// One block from its elements and their importance (or null), as ops/block_quant.h says.
void encode(const float* x, const float* importance, BlockQ4_0& b);
void encode(const float* x, const float* importance, BlockQ4_1& b);
void encode(const float* x, const float* importance, BlockQ5_0& b);
void encode(const float* x, const float* importance, BlockQ5_1& b);
void encode(const float* x, const float* importance, BlockQ8_0& b);
void encode(const float* x, const float* importance, BlockIq4Nl& b);
void encode(const float* x, const float* importance, BlockQ2K& b);
void encode(const float* x, const float* importance, BlockQ3K& b);
void encode(const float* x, const float* importance, BlockQ4K& b);
void encode(const float* x, const float* importance, BlockQ5K& b);
void encode(const float* x, const float* importance, BlockQ6K& b);

/// What a squared error of each of the block's n elements costs: sqrt(mean x^2 + x_i^2) times the importance.
void error_weights(const float* x, const float* importance, int n, float* w);

}  // namespace sluice::cpu
