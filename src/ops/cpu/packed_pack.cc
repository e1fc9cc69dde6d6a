// Blocks in file order -> groups of interleaved rows. Bit layouts: specification 10.4.
#include <algorithm>
#include <cstring>

#include "ops/cpu/packed_layout.h"
#include "ops/cpu/packed_pack.h"

namespace sluice::cpu {
namespace {

/// One block of one row, taken apart. Scales and codes beyond the block's are left as they were. Codes are unsigned but
/// for q8_0's; the value of code 0 is ops/cpu/packed_layout.h's.
struct Parts {
  uint16_t factor[2] = {};  // scale and minimum, half precision
  uint8_t scale[16], minimum[16];
  int8_t code[256];
};

uint16_t half_at(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

// Codes are taken eight at a time, as the bytes of a word; the machine is little-endian.

uint64_t eight_at(const void* p) {
  uint64_t v;
  std::memcpy(&v, p, 8);
  return v;
}
void put_eight(int8_t* code, uint64_t v) { std::memcpy(code, &v, 8); }
constexpr uint64_t all_bytes(uint64_t byte) { return byte * 0x0101010101010101u; }

/// The eight bits of a byte, each in bit 4 of a byte.
uint64_t spread_fifth(uint32_t bits) {
  const uint64_t each = all_bytes(bits & 255) & 0x8040201008040201u;
  return (each + all_bytes(0x7f)) >> 3 & all_bytes(0x10);
}

uint32_t word_at(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

/// Low nibbles are the first 16 codes, high nibbles the last; `fifth` holds a fifth bit for each.
void nibbles_32(Parts& b, const uint8_t* q, uint32_t fifth) {
  for (int i = 0; i < 16; i += 8) {
    const uint64_t both = eight_at(q + i);
    put_eight(b.code + i, (both & all_bytes(15)) | spread_fifth(fifth >> i));
    put_eight(b.code + i + 16, (both >> 4 & all_bytes(15)) | spread_fifth(fifth >> (i + 16)));
  }
}

template <Format kFormat>
void take_32(Parts& b, const uint8_t* p) {
  b.factor[0] = half_at(p);
  switch (kFormat) {
    case Format::q8_0:
      std::memcpy(b.code, p + 2, 32);
      break;
    case Format::q4_1:
      b.factor[1] = half_at(p + 2);
      nibbles_32(b, p + 4, 0);
      break;
    case Format::q5_0:
      nibbles_32(b, p + 6, word_at(p + 2));
      break;
    case Format::q5_1:
      b.factor[1] = half_at(p + 2);
      nibbles_32(b, p + 8, word_at(p + 4));
      break;
    default:
      nibbles_32(b, p + 2, 0);
  }
}

/// The eight 6-bit scales and minima of q4_k and q5_k.
void scales_of_32(Parts& b, const uint8_t* s) {
  for (int j = 0; j < 8; ++j) {
    const int sc = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    const int mn = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6) << 4;
    b.scale[j] = static_cast<uint8_t>(sc);
    b.minimum[j] = static_cast<uint8_t>(mn);
  }
}

/// In the file a byte holds one code of each of two neighbouring sub-blocks.
void take_q4_k(Parts& b, const uint8_t* p) {
  constexpr uint32_t kLow = 0x0f0f0f0f;
  b.factor[0] = half_at(p), b.factor[1] = half_at(p + 2);
  scales_of_32(b, p + 4);
  uint32_t in[32], out[64];
  std::memcpy(in, p + 16, 128);
  for (int i = 0; i < 32; ++i) {
    uint32_t* two = out + i / 8 * 16 + i % 8;
    two[0] = in[i] & kLow;
    two[8] = in[i] >> 4 & kLow;
  }
  std::memcpy(b.code, out, 256);
}

void take_q5_k(Parts& b, const uint8_t* p) {
  b.factor[0] = half_at(p), b.factor[1] = half_at(p + 2);
  scales_of_32(b, p + 4);
  const uint8_t *high = p + 16, *low = p + 48;
  for (int pair = 0; pair < 4; ++pair)
    for (int i = 0; i < 32; i += 8) {
      const uint64_t both = eight_at(low + 32 * pair + i), fifth = eight_at(high + i) >> (2 * pair);
      put_eight(b.code + 64 * pair + i, (both & all_bytes(15)) | (fifth & all_bytes(1)) << 4);
      put_eight(b.code + 64 * pair + 32 + i, (both >> 4 & all_bytes(15)) | (fifth >> 1 & all_bytes(1)) << 4);
    }
}

void take_q2_k(Parts& b, const uint8_t* p) {
  b.factor[0] = half_at(p + 80), b.factor[1] = half_at(p + 82);
  for (int j = 0; j < 16; ++j) b.scale[j] = p[j] & 15, b.minimum[j] = static_cast<uint8_t>(p[j] >> 4);
  for (int i = 0; i < 256; ++i)
    b.code[i] = static_cast<int8_t>(p[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3);
}

void take_q3_k(Parts& b, const uint8_t* p) {
  const uint8_t *high = p, *low = p + 32, *s = p + 96;
  b.factor[0] = half_at(p + 108);
  for (int j = 0; j < 16; ++j) {
    const int four = j < 8 ? s[j] & 15 : s[j - 8] >> 4, two = s[8 + j % 4] >> (j / 4 * 2) & 3;
    b.scale[j] = static_cast<uint8_t>((four | two << 4) - 32);
    b.minimum[j] = 0;
  }
  for (int i = 0; i < 256; ++i)  // the value is code - 4
    b.code[i] = static_cast<int8_t>((low[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) |
                                    (high[i % 32] >> (i / 32) & 1) << 2);
}

void take_q6_k(Parts& b, const uint8_t* p) {
  b.factor[0] = half_at(p + 208);
  std::memcpy(b.scale, p + 192, 16);
  for (int half = 0; half < 2; ++half) {
    const uint8_t *low = p + half * 64, *high = p + 128 + half * 32;
    int8_t* code = b.code + half * 128;  // the value is code - 32
    for (int l = 0; l < 32; ++l) {
      code[l] = static_cast<int8_t>((low[l] & 15) | (high[l] & 3) << 4);
      code[l + 32] = static_cast<int8_t>((low[l + 32] & 15) | (high[l] >> 2 & 3) << 4);
      code[l + 64] = static_cast<int8_t>((low[l] >> 4) | (high[l] >> 4 & 3) << 4);
      code[l + 96] = static_cast<int8_t>((low[l + 32] >> 4) | (high[l] >> 6) << 4);
    }
  }
}

template <Format kFormat>
void take(Parts& b, const uint8_t* p) {
  switch (kFormat) {
    case Format::q2_k:
      return take_q2_k(b, p);
    case Format::q3_k:
      return take_q3_k(b, p);
    case Format::q4_k:
      return take_q4_k(b, p);
    case Format::q5_k:
      return take_q5_k(b, p);
    case Format::q6_k:
      return take_q6_k(b, p);
    default:
      return take_32<kFormat>(b, p);
  }
}

constexpr int64_t kMostWords = 64;

/// The codes of a block in the order in which a lane of its group holds them; returns their number.
template <Format kFormat>
int64_t make_words(uint32_t* words, const Parts& b, uint32_t flip) {
  constexpr uint32_t kLow = 0x0f0f0f0f;
  constexpr PackedBlock layout = packed_block(kFormat);
  constexpr PackedKind kind = packed_kind(kFormat);
  constexpr int64_t quads = layout.columns / layout.sub_blocks / 4;
  constexpr int bits = high_bits(kFormat);
  uint32_t* out = words;
  for (int64_t i = 0; i < layout.sub_blocks; ++i) {
    uint32_t quad[8], high = 0;
    std::memcpy(quad, b.code + i * 4 * quads, static_cast<size_t>(4 * quads));
    if (kind == PackedKind::byte_32 || kind == PackedKind::byte_16) {
      for (int64_t q = 0; q < quads; ++q) *out++ = quad[q] ^ flip;
      continue;
    }
    for (int64_t q = 0; bits && q < quads; ++q)
      high |= (quad[q] >> 4 & (bits == 2 ? 0x03030303u : 0x01010101u)) << (bits * static_cast<int>(q));
    if (bits) *out++ = high;
    for (int64_t q = 0; q < quads / 2; ++q) *out++ = (quad[q] & kLow) | (quad[q + quads / 2] & kLow) << 4;
  }
  return out - words;
}

/// Rows that are put at a time, or fewer where a group has fewer.
constexpr int64_t kRowsAtOnce = 4;

using Words = uint32_t __attribute__((vector_size(16)));

/// Writes word w of each of four rows to out + w * stride, side by side: four words of four rows at a time, transposed.
void interleave(std::byte* out, int64_t stride, const uint32_t (*words)[kMostWords], int64_t count) {
  for (int64_t w = 0; w < count; w += 4) {
    Words row[4];
    for (int i = 0; i < 4; ++i) std::memcpy(&row[i], words[i] + w, 16);
    const Words a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5),
                b = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7),
                c = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5),
                d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
    const Words column[4] = {__builtin_shufflevector(a, c, 0, 1, 4, 5), __builtin_shufflevector(a, c, 2, 3, 6, 7),
                             __builtin_shufflevector(b, d, 0, 1, 4, 5), __builtin_shufflevector(b, d, 2, 3, 6, 7)};
    for (int64_t i = 0; i < std::min<int64_t>(4, count - w); ++i) std::memcpy(out + (w + i) * stride, &column[i], 16);
  }
}

/// Puts the parts of `rows` rows from `lane` on into the block of their group.
template <Format kFormat>
void put(std::byte* block, const Parts* b, int64_t rows, int64_t lanes, int64_t lane, uint32_t flip) {
  constexpr PackedBlock layout = packed_block(kFormat);
  alignas(16) uint32_t words[kRowsAtOnce][kMostWords] = {};
  int64_t count = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t f = 0; f < layout.factors / 2; ++f)
      std::memcpy(block + 2 * (f * lanes + lane + r), &b[r].factor[f], 2);
    std::byte* out = block + layout.factors * lanes + lane + r;
    for (int64_t i = 0; i < layout.scales; ++i) out[i * lanes] = std::byte{b[r].scale[i]};
    for (int64_t i = 0; i < layout.minima; ++i) out[(layout.scales + i) * lanes] = std::byte{b[r].minimum[i]};
    count = make_words<kFormat>(words[r], b[r], flip);
  }
  std::byte* out = block + layout.head() * lanes + 4 * lane;
  if (lanes % kRowsAtOnce == 0) return interleave(out, 4 * lanes, words, count);
  for (int64_t w = 0; w < count; ++w)
    for (int64_t r = 0; r < rows; ++r) std::memcpy(out + 4 * (w * lanes + r), &words[r][w], 4);
}

/// Groups [begin, end) of a block format.
template <Format kFormat>
void pack_groups(const PackedMatrix& out, const Matrix& w, const PackedTarget& target, int64_t begin, int64_t end) {
  constexpr PackedBlock layout = packed_block(kFormat);
  constexpr int64_t source_block = block_shape(kFormat).bytes;
  const int64_t blocks = w.cols / layout.columns, block_bytes = layout.row_bytes() * target.lanes;
  const int64_t source_row = row_bytes(kFormat, w.cols);
  const int64_t step = std::min(kRowsAtOnce, target.lanes);
  const uint32_t flip = target.has_bytes && kFormat == Format::q8_0 ? 0x80808080u : 0;  // plus 128 modulo 256
  for (int64_t g = begin; g < end; ++g) {
    std::byte* group = out.data + g * blocks * block_bytes;
    if ((g + 1) * target.lanes > w.rows) std::memset(group, 0, static_cast<size_t>(blocks * block_bytes));
    for (int64_t lane = 0; lane < std::min(target.lanes, w.rows - g * target.lanes); lane += step) {
      const int64_t first = g * target.lanes + lane, rows = std::min(step, w.rows - first);
      const uint8_t* row = static_cast<const uint8_t*>(w.data) + first * source_row;
      for (int64_t b = 0; b < blocks; ++b) {
        // The rows to come are short streams, which the machine does not foresee; nor does it the next group's lines.
        for (int64_t i = 0; i < step; ++i) __builtin_prefetch(row + (step + i) * source_row + b * source_block);
        for (int64_t i = 0; i < block_bytes * step / target.lanes; i += 64)
          __builtin_prefetch(group + (blocks + b) * block_bytes + block_bytes * lane / target.lanes + i, 1);
        Parts parts[kRowsAtOnce];
        for (int64_t i = 0; i < rows; ++i) take<kFormat>(parts[i], row + i * source_row + b * source_block);
        put<kFormat>(group + b * block_bytes, parts, rows, target.lanes, lane, flip);
      }
    }
  }
}

template <Format... kFormats>
void pack_blocks(Stream& s, const PackedMatrix& out, const Matrix& w) {
  const PackedTarget target = packed_target();
  const int64_t groups = (w.rows + target.lanes - 1) / target.lanes;
  const int64_t bytes = static_cast<int64_t>(cpu::packed_bytes(w.format, target.lanes, w.cols));
  parallel_for(s, groups, std::max<int64_t>(1, 65536 / bytes), [&](int64_t begin, int64_t end, int) {
    ((w.format == kFormats ? pack_groups<kFormats>(out, w, target, begin, end) : void()), ...);
  });
}

}  // namespace

size_t packed_bytes(Format format, int64_t rows, int64_t cols) {
  const int64_t lanes = packed_target().lanes, groups = (rows + lanes - 1) / lanes;
  if (!is_block_format(format)) {
    const int64_t scales = format == Format::fp8_128 ? (cols + kScaleCols - 1) / kScaleCols * 4 : 0;
    return static_cast<size_t>(groups * (plain_group_bytes(format, cols, lanes) + scales));
  }
  const PackedBlock layout = packed_block(format);
  return static_cast<size_t>(groups * lanes * (cols / layout.columns) * layout.row_bytes());
}

void pack_matrix(Stream& s, const PackedMatrix& out, const Matrix& w) {
  if (!is_block_format(w.format)) return pack_plain(s, out, w);
  pack_blocks<Format::q8_0, Format::q4_0, Format::q4_1, Format::q5_0, Format::q5_1, Format::iq4_nl, Format::q2_k,
              Format::q3_k, Format::q4_k, Format::q5_k, Format::q6_k>(s, out, w);
}

}  // namespace sluice::cpu
