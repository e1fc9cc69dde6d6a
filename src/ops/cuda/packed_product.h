// Products with packed weights (ops/gpu_packed.h) as their kernels see them. An output is the same sums in the same
// order whatever kernel computes it: those of 128 of k by eight mma in ascending order, then one multiply-add for each.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "ops/matrix.h"

namespace sluice::cuda {

constexpr int64_t kMostProducts = 4;  // of a launch
constexpr int64_t kMostExperts = 512;

/// One of the matrices that a launch multiplies.
struct PackedSide {
  const void* data;     // of the first expert
  const float* scales;  // null: 1
  int64_t stride;       // bytes from one expert to the next
  const char* x;        // rows of activations
  float* y;
  int64_t ldy, N;
  int first_tile;  // the blocks of this matrix begin there
  bool add;
};

/// Matrices of one format and equal K with equally many rows of activations.
struct PackedLaunch {
  PackedSide side[kMostProducts];
  int sides = 0;
  int64_t rows = 0, K = 0;
  int64_t x_pitch = 0;                  // bytes from one row of activations to the next
  const int32_t* offsets_E1 = nullptr;  // null: one expert that owns all rows
  int experts = 1;
  bool last_takes_rest = false;  // all rows from those of the last expert on are its own
  // Row r of an expert is row slot_of_R[r] / top_k of the activations, from `slots` on row r - slots; null: row r.
  const int32_t* slot_of_R = nullptr;
  int64_t top_k = 1, slots = 0;
  // Unless 0, there are so many matrices, equally far apart, and each takes all rows: of the activations from x_step
  // bytes, of the outputs from y_step elements after those of the matrix before it.
  int heads = 0;
  int64_t x_step = 0, y_step = 0;
};

/// bf16 and FP8 weights times bf16 activations. `few`: for products where an expert has a few rows, so that reading the
/// weights is what takes the time; the result is the same.
void packed_bf16_product(cudaStream_t s, const PackedLaunch& launch, bool few);
void packed_fp8_product(cudaStream_t s, const PackedLaunch& launch, bool few);
/// The same for many rows, as those call it.
void packed_many_rows(cudaStream_t s, const PackedLaunch& launch, bool is_fp8);
/// float32 weights and activations.
void packed_f32_product(cudaStream_t s, const PackedLaunch& launch);

}  // namespace sluice::cuda
