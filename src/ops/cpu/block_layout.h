// Blocks of GGUF files as they lie in memory (specification 10.4): 32 elements under one scale, or 256 elements in
// sub-blocks of 16 or 32, whose small integer scales have a common factor. `d` (scale) and `m` (minimum) are IEEE
// halves, n is the integer code of an element. "n: planes of k bytes" is the layout of pack_planes.
#pragma once
#include <array>
#include <cstdint>

#include "ops/block_format.h"

namespace sluice::cpu {

/// x = d (n - 8); n: planes of 16 bytes.
struct BlockQ4_0 {
  static constexpr Format kFormat = Format::q4_0;
  uint16_t d;
  uint8_t q[16];
};

/// x = d n + m; n: planes of 16 bytes.
struct BlockQ4_1 {
  static constexpr Format kFormat = Format::q4_1;
  uint16_t d, m;
  uint8_t q[16];
};

/// x = d (n - 16); n: low 4 bits in planes of 16 bytes, bit 4 of element i is bit i % 8 of high[i / 8].
struct BlockQ5_0 {
  static constexpr Format kFormat = Format::q5_0;
  uint16_t d;
  uint8_t high[4];
  uint8_t q[16];
};

/// x = d n + m; n as in q5_0.
struct BlockQ5_1 {
  static constexpr Format kFormat = Format::q5_1;
  uint16_t d, m;
  uint8_t high[4];
  uint8_t q[16];
};

/// x = d n.
struct BlockQ8_0 {
  static constexpr Format kFormat = Format::q8_0;
  uint16_t d;
  int8_t q[32];
};

/// x = d kIq4Values[n]; n: planes of 16 bytes.
struct BlockIq4Nl {
  static constexpr Format kFormat = Format::iq4_nl;
  uint16_t d;
  uint8_t q[16];
};
constexpr std::array<int8_t, 16> kIq4Values{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/// x = d s n - m t; sub-blocks of 16, s and t the low and the high 4 bits of scales[j]; n: planes of 32 bytes.
struct BlockQ2K {
  static constexpr Format kFormat = Format::q2_k;
  uint8_t scales[16];
  uint8_t q[64];
  uint16_t d, m;
};

/// x = d (s - 32) (n - 4); sub-blocks of 16, s of 6 bits (unpack_q3k_scales); n: low 2 bits and bit 2 in planes of 32.
struct BlockQ3K {
  static constexpr Format kFormat = Format::q3_k;
  uint8_t high[32];
  uint8_t q[64];
  uint8_t scales[12];
  uint16_t d;
};

/// x = d s n - m t; sub-blocks of 32, s and t of 6 bits (unpack_scale_pair); n: planes of 32 bytes.
struct BlockQ4K {
  static constexpr Format kFormat = Format::q4_k;
  uint16_t d, m;
  uint8_t scales[12];
  uint8_t q[128];
};

/// As q4_k; n: low 4 bits and bit 4 in planes of 32 bytes.
struct BlockQ5K {
  static constexpr Format kFormat = Format::q5_k;
  uint16_t d, m;
  uint8_t scales[12];
  uint8_t high[32];
  uint8_t q[128];
};

/// x = d s (n - 32); sub-blocks of 16; n: low 4 bits in planes of 64 bytes, high 2 in planes of 32.
struct BlockQ6K {
  static constexpr Format kFormat = Format::q6_k;
  uint8_t q[128];
  uint8_t high[64];
  int8_t scales[16];
  uint16_t d;
};

/// Elements of a block.
template <class Block>
constexpr int kElements = static_cast<int>(block_shape(Block::kFormat).elements);

/// kWidth bits of each of the `n` codes, from bit kShift on, to out. Each run of kBytes bytes holds as many planes as
/// fit: the first kBytes codes in the lowest kWidth bits of the bytes, the next ones above them.
template <int kBytes, int kWidth, int kShift = 0>
void pack_planes(const uint8_t* code, int n, uint8_t* out) {
  constexpr int kPlanes = 8 / kWidth, kMask = (1 << kWidth) - 1;
  for (; n > 0; n -= kPlanes * kBytes, code += kPlanes * kBytes, out += kBytes)
    for (int i = 0; i < kBytes; ++i) {
      int byte = 0;
      for (int plane = 0; plane < kPlanes; ++plane)
        byte |= ((code[plane * kBytes + i] >> kShift) & kMask) << (plane * kWidth);
      out[i] = static_cast<uint8_t>(byte);
    }
}

/// The inverse. Bits below kShift are kept, all others set.
template <int kBytes, int kWidth, int kShift = 0>
void unpack_planes(const uint8_t* in, int n, uint8_t* code) {
  constexpr int kPlanes = 8 / kWidth, kMask = (1 << kWidth) - 1;
  for (; n > 0; n -= kPlanes * kBytes, in += kBytes)
    for (int plane = 0; plane < kPlanes; ++plane, code += kBytes)
      for (int i = 0; i < kBytes; ++i) {
        const int bits = ((in[i] >> (plane * kWidth)) & kMask) << kShift;
        code[i] = static_cast<uint8_t>(kShift ? code[i] | bits : bits);
      }
}

/// The scales s and t of one sub-block.
struct ScalePair {
  int s, t;
};

/// Of sub-block j of q4_k and q5_k: the low halves of the last four share bytes, their top bits lie above the first
/// four.
inline ScalePair unpack_scale_pair(const uint8_t (&scales)[12], int j) {
  if (j < 4) return {scales[j] & 63, scales[j + 4] & 63};
  return {(scales[j + 4] & 15) | ((scales[j - 4] >> 6) << 4), (scales[j + 4] >> 4) | ((scales[j] >> 6) << 4)};
}
inline void pack_scale_pairs(const ScalePair* pair, uint8_t (&scales)[12]) {
  for (int j = 0; j < 4; ++j) {
    const ScalePair a = pair[j], b = pair[j + 4];
    scales[j] = static_cast<uint8_t>(a.s | ((b.s >> 4) << 6));
    scales[j + 4] = static_cast<uint8_t>(a.t | ((b.t >> 4) << 6));
    scales[j + 8] = static_cast<uint8_t>((b.s & 15) | ((b.t & 15) << 4));
  }
}

/// The 16 scales of q3_k, without the 32 that is taken off: low 4 bits in planes of 8 bytes, high 2 in planes of 4.
inline void unpack_q3k_scales(const uint8_t (&scales)[12], uint8_t (&s)[16]) {
  unpack_planes<8, 4>(scales, 16, s);
  unpack_planes<4, 2, 4>(scales + 8, 16, s);
}
inline void pack_q3k_scales(const uint8_t (&s)[16], uint8_t (&scales)[12]) {
  pack_planes<8, 4>(s, 16, scales);
  pack_planes<4, 2, 4>(s, 16, scales + 8);
}

}  // namespace sluice::cpu
