// The block formats of GGUF files (specification 10.4): a row is a sequence of blocks of 32 or 256 elements, each with
// its own scales.
#pragma once
#include <optional>
#include <string_view>

#include "ops/matrix.h"

namespace sluice {

/// Elements and bytes of one block; plain formats have blocks of one element.
struct BlockShape {
  int64_t elements, bytes;
};

/// Of every format but fp8_128, whose scales lie elsewhere.
constexpr BlockShape block_shape(Format format) {
  switch (format) {
    case Format::f32:
      return {1, 4};
    case Format::bf16:
    case Format::f16:
      return {1, 2};
    case Format::fp8_128:
      return {1, 1};
    case Format::q4_0:
    case Format::iq4_nl:
      return {32, 18};
    case Format::q4_1:
      return {32, 20};
    case Format::q5_0:
      return {32, 22};
    case Format::q5_1:
      return {32, 24};
    case Format::q8_0:
      return {32, 34};
    case Format::q2_k:
      return {256, 84};
    case Format::q3_k:
      return {256, 110};
    case Format::q4_k:
      return {256, 144};
    case Format::q5_k:
      return {256, 176};
    case Format::q6_k:
      return {256, 210};
  }
  return {1, 0};
}

/// Bytes of a row of `cols` elements, a multiple of the block's.
constexpr int64_t row_bytes(Format format, int64_t cols) {
  return cols / block_shape(format).elements * block_shape(format).bytes;
}

/// Whether elements share scales inside the row.
constexpr bool is_block_format(Format format) { return block_shape(format).elements > 1; }

/// "f32", "bf16", "f16", "fp8", "q4_0", ... "iq4_nl": the names of options and messages.
const char* format_name(Format format);

/// The format of that name.
std::optional<Format> parse_format(std::string_view name);

}  // namespace sluice
