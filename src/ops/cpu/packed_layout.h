// Where things lie in packed weights and rounded activations. `lanes` is the number of 32-bit lanes of the machine's
// vectors: that many rows of a matrix form a group, whose codes are interleaved by four: byte 4 r + i of a vector
// belongs to row r and column 4 q + i, so that one vector product with four broadcast activations serves all rows of
// the group.
#pragma once
#include <cstddef>
#include <cstdint>

#include "ops/block_format.h"
#include "ops/packed.h"

namespace sluice::cpu {

/// What the vectors of the chosen target ask for.
struct PackedTarget {
  int64_t lanes;
  bool
      has_bytes;  // multiplies unsigned by signed bytes; else activations are kept as 16-bit pairs and codes are signed
};
PackedTarget packed_target();

/// Plain formats: groups of `lanes` rows, columns padded with zeros to whole quads. A quad of a group is, for bf16, the
/// pairs of columns 0, 1 and then 2, 3 of every row; for f32 its four columns one after another; for fp8_128 four codes
/// of every row. The scales of fp8_128 follow the last group: one float32 per group and 128 columns.
constexpr int64_t kQuad = 4;
constexpr int64_t padded_cols(int64_t cols) { return (cols + kQuad - 1) / kQuad * kQuad; }
constexpr int64_t plain_group_bytes(Format f, int64_t cols, int64_t lanes) {
  return lanes * padded_cols(cols) * block_shape(f).bytes;
}
constexpr int64_t kScaleCols = 128;

/// Sizes of the parts of one block of one group, in bytes.
struct PackedBlock {
  int64_t columns;  // 32 or 256
  int64_t factors;  // half-precision factors per row: 1 or 2, first in the block, all rows of one before the next
  int64_t scales;   // then bytes per row: scales, then minima, `scales` of each; 0 where there are only factors
  int64_t codes;    // then bytes per row
  int64_t row_bytes() const { return 2 * factors + 2 * scales + codes; }
};

/// How a packed matrix holds its codes.
enum class PackedKind : uint8_t {
  byte_32,    // 8-bit codes, a scale (and minimum) per 32: q8_0, q4_0, q4_1, q5_0, q5_1, iq4_nl
  nibble_32,  // 4-bit codes, scale and minimum per 32, float factors per 256: q4_k
  byte_16,    // 8-bit codes, scale and minimum per 16, float factors per 256: q2_k, q3_k, q5_k, q6_k
};

/// Of a block format.
constexpr PackedKind packed_kind(Format f) {
  return f == Format::q4_k               ? PackedKind::nibble_32
         : block_shape(f).elements == 32 ? PackedKind::byte_32
                                         : PackedKind::byte_16;
}

constexpr bool has_minimum(Format f) {
  return f == Format::q4_1 || f == Format::q5_1 || f == Format::q2_k || f == Format::q4_k || f == Format::q5_k;
}

constexpr PackedBlock packed_block(Format f) {
  switch (packed_kind(f)) {
    case PackedKind::byte_32:
      return {32, has_minimum(f) ? 2 : 1, 0, 32};
    case PackedKind::nibble_32:
      return {256, 2, 8, 128};
    case PackedKind::byte_16:
      return {256, 2, 16, 256};
  }
  return {};
}

/// Formats of signed bytes: their codes are stored plus 128 where the target wants them unsigned.
constexpr bool has_signed_bytes(Format f) {
  return f == Format::q8_0 || f == Format::q4_0 || f == Format::q5_0 || f == Format::iq4_nl;
}

/// The value of code 0 is -2^zero_shift scales (0: none) in q6_k and q3_k.
constexpr int zero_shift(Format f) { return f == Format::q6_k ? 5 : f == Format::q3_k ? 2 : 0; }

/// One row of rounded activations: codes, then per block of 32 the scale, scale times sum of codes, -128 times that sum
/// (where codes of weights are stored plus 128) and the sums of both halves' codes.
struct RoundedRow {
  int64_t code_bytes, blocks;
  RoundedRow(int64_t cols, bool has_bytes) : code_bytes(cols * (has_bytes ? 1 : 2)), blocks(cols / 32) {}
  int64_t scale() const { return code_bytes; }
  int64_t scaled_sum() const { return code_bytes + 4 * blocks; }
  int64_t bias() const { return code_bytes + 8 * blocks; }
  int64_t half_sums() const { return code_bytes + 12 * blocks; }
  int64_t bytes() const { return (code_bytes + 20 * blocks + 63) / 64 * 64; }
};

}  // namespace sluice::cpu
