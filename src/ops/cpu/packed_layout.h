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
constexpr int64_t kScaleCols = 128;

/// A group of bf16 begins with this. Where all but a few of its weights share seven values of the upper byte without
/// its sign (14 exponents, of 256), or have 0 there, it is short: three quarters of the bytes for the same values. Then
/// two quads are the lower bytes of one, those of the other, and their upper bytes as codes, those of the second quad
/// in the upper nibbles. Bytes lie so that interleaving lower and upper ones of 16 gives the pairs of the long form.
/// The few others are 0 there and are listed behind the head, whole lines of 64 bytes, so that an infinite activation
/// gives NaN with them. Groups are as many rows as the vector has lanes: which weights are listed, and so the last bits
/// of sums, differs between machines.
struct Bf16Head {
  uint32_t is_short, listed;
  uint8_t upper[16];  // bytes of the codes
};
struct ListedWeight {
  uint32_t col;
  uint16_t lane, bits;
};
constexpr int64_t kHeadBytes = 64, kShortCols = 2 * kQuad;
constexpr int64_t head_bytes(Format f) { return f == Format::bf16 ? kHeadBytes : 0; }
/// Where the quads of a short group begin.
constexpr int64_t short_begin(int64_t listed) {
  return kHeadBytes + (listed * static_cast<int64_t>(sizeof(ListedWeight)) + 63) / 64 * 64;
}
constexpr int64_t short_bytes(int64_t cols, int64_t lanes) { return cols * lanes * 3 / 2; }

constexpr int64_t plain_group_bytes(Format f, int64_t cols, int64_t lanes) {
  return head_bytes(f) + lanes * padded_cols(cols) * block_shape(f).bytes;
}

/// How a packed matrix holds its codes.
enum class PackedKind : uint8_t {
  byte_32,    // 8-bit codes, a factor per 32 columns: q8_0
  byte_16,    // 8-bit codes, scale and minimum per 16, factors per 256: q2_k, q3_k
  half_32,    // nibbles, a factor (and one for the minimum) per 32: q4_0, q4_1, q5_0, q5_1, iq4_nl
  nibble_32,  // nibbles, scale and minimum per 32, factors per 256: q4_k, q5_k
  nibble_16,  // nibbles, scale per 16, factors per 256: q6_k
};

/// Of a block format.
constexpr PackedKind packed_kind(Format f) {
  switch (f) {
    case Format::q8_0:
      return PackedKind::byte_32;
    case Format::q2_k:
    case Format::q3_k:
      return PackedKind::byte_16;
    case Format::q4_k:
    case Format::q5_k:
      return PackedKind::nibble_32;
    case Format::q6_k:
      return PackedKind::nibble_16;
    default:
      return PackedKind::half_32;
  }
}

constexpr bool has_minimum(Format f) {
  return f == Format::q4_1 || f == Format::q5_1 || f == Format::q2_k || f == Format::q4_k || f == Format::q5_k;
}

/// Bits of a code beyond its nibble.
constexpr int high_bits(Format f) {
  return f == Format::q6_k ? 2 : f == Format::q5_0 || f == Format::q5_1 || f == Format::q5_k ? 1 : 0;
}

/// Sizes of the parts of one block of one group, in bytes per row, in the order in which they lie. A part holds all
/// rows of its first item before those of the next. Factors are of half precision. Codes come in sub-blocks of 16 or 32
/// columns, of quads of four columns. In kinds of nibbles a sub-block is a word of high bits per row, where codes have
/// them (byte i: those of column i of quad 0 lowest, then of quad 1, ...), then bytes with the nibbles of one quad low
/// and of the quad half a sub-block later high.
struct PackedBlock {
  int64_t columns;  // 32 or 256
  int64_t factors, scales, minima, sub_block, sub_blocks;
  int64_t head() const { return factors + scales + minima; }
  int64_t row_bytes() const { return head() + sub_block * sub_blocks; }
};

constexpr PackedBlock packed_block(Format f) {
  const int64_t high = high_bits(f) ? 4 : 0;
  switch (packed_kind(f)) {
    case PackedKind::byte_32:
      return {32, 2, 0, 0, 32, 1};
    case PackedKind::byte_16:
      return {256, 4, 16, 16, 16, 16};
    case PackedKind::half_32:
      return {32, has_minimum(f) ? 4 : 2, 0, 0, high + 16, 1};
    case PackedKind::nibble_32:
      return {256, 4, 8, 8, high + 16, 8};
    case PackedKind::nibble_16:
      return {256, 2, 16, 0, high + 8, 16};
  }
  return {};
}

/// The value of code 0 is -2^zero_shift scales; 0: it is 0 (or the minimum). q8_0 and iq4_nl have signed values, which
/// products take plus 128 where the target wants them unsigned.
constexpr int zero_shift(Format f) {
  switch (f) {
    case Format::q3_k:
      return 2;
    case Format::q4_0:
      return 3;
    case Format::q5_0:
      return 4;
    case Format::q6_k:
      return 5;
    default:
      return 0;
  }
}

/// The values of iq4_nl.
constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/// One row of rounded activations: codes, then per block of 32 the scale, scale times sum of codes, -128 times that sum
/// (for values of weights taken plus 128) and the sums of both halves' codes.
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
