// The work of one thread in a product with packed weights: groups of rows of the matrix against rows of x.
#pragma once
#include <cstddef>
#include <cstdint>

#include "ops/matrix.h"

namespace sluice::cpu {

struct PackedJob {
  const std::byte* weights;  // `groups` groups, group_bytes apart
  int64_t groups, group_bytes;
  Format format;
  int64_t cols;
  const float* scales;  // of fp8_128: per group one for every 128 columns
  const std::byte* x;   // prepared rows, x_stride bytes apart
  int64_t x_stride;
  int64_t rows;
  float* y;  // rows ldy floats apart
  int64_t ldy;
  int64_t outs;  // rows of all groups that exist
  bool add;      // y += instead of y =
};

/// y (=|+=) x weights'. Each output is one chain over the blocks in ascending order, whatever `rows` and `groups` are.
void packed_block_groups(const PackedJob& job);
/// The same for f32, bf16 and fp8_128, whose outputs are chains over the columns.
void packed_plain_groups(const PackedJob& job);

/// One row of activations (`cols`, a multiple of 32) -> codes, scales, sums at `out`.
void round_row(const float* x, int64_t cols, std::byte* out);

}  // namespace sluice::cpu
