// The block formats once more, as plain as can be: the value of one element from the bytes of its block, computed
// without rounding (in float64, where all of these products and sums are exact) and rounded once. From the definitions
// in specification 10.4 and, where it has none, from what ggml's reference dequantisers compute.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "ops/block_format.h"

namespace sluice::ref {

using Byte = uint8_t;

/// The IEEE half at p.
inline double half(const Byte* p) {
  const int bits = p[0] | p[1] << 8, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return fraction ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  return exponent ? sign * std::ldexp(1024 + fraction, exponent - 25) : sign * std::ldexp(fraction, -24);
}

/// Code i of 32 in 16 bytes: low halves first.
inline int nibble32(const Byte* q, int i) { return i < 16 ? q[i] & 15 : q[i - 16] >> 4; }

inline double q4_0(const Byte* b, int i) { return half(b) * (nibble32(b + 2, i) - 8); }

inline double q4_1(const Byte* b, int i) { return half(b) * nibble32(b + 4, i) + half(b + 2); }

/// The same with bit i of a 32-bit word for bit 4.
inline int five_bits(const Byte* high, const Byte* q, int i) {
  return nibble32(q, i) + (high[i / 8] & 1 << (i % 8) ? 16 : 0);
}

inline double q5_0(const Byte* b, int i) { return half(b) * (five_bits(b + 2, b + 6, i) - 16); }

inline double q5_1(const Byte* b, int i) { return half(b) * five_bits(b + 4, b + 8, i) + half(b + 2); }

inline double q8_0(const Byte* b, int i) { return half(b) * static_cast<int8_t>(b[2 + i]); }

inline double iq4_nl(const Byte* b, int i) {
  constexpr int kValues[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  return half(b) * kValues[nibble32(b + 2, i)];
}

/// 16 bytes of scales and minima, 64 of codes, d, dmin. A byte of codes holds elements 32 apart of 128.
inline double q2_k(const Byte* b, int i) {
  const int code = b[16 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3, scales = b[i / 16];
  return half(b + 80) * (scales & 15) * code - half(b + 82) * (scales >> 4);
}

/// 32 bytes of bits 2, 64 of bits 0 and 1, 12 of scales, d. Bit 2 of element i is bit i / 32 of byte i % 32; where it
/// is missing 4 is taken off.
inline double q3_k(const Byte* b, int i) {
  const int low = b[32 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3, j = i / 16;
  const int code = b[i % 32] & 1 << (i / 32) ? low : low - 4;
  const Byte* scales = b + 96;
  const int scale_low = j < 8 ? scales[j] & 15 : scales[j - 8] >> 4, scale_high = scales[8 + j % 4] >> (j / 4 * 2) & 3;
  return half(b + 108) * (scale_low + 16 * scale_high - 32) * code;
}

/// Scale and minimum of sub-block j of 12 bytes.
inline int scale_of(const Byte* s, int j) { return j < 4 ? s[j] & 63 : (s[j + 4] & 15) + (s[j - 4] >> 6) * 16; }
inline int minimum_of(const Byte* s, int j) { return j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) + (s[j] >> 6) * 16; }

/// The lower and the higher 4 bits of 32 bytes are two sub-blocks.
inline int nibble64(const Byte* q, int i) { return q[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15; }

inline double q4_k(const Byte* b, int i) {
  return half(b) * scale_of(b + 4, i / 32) * nibble64(b + 16, i) - half(b + 2) * minimum_of(b + 4, i / 32);
}

/// Bit 4 of element i is bit i / 32 of byte i % 32.
inline double q5_k(const Byte* b, int i) {
  const int code = nibble64(b + 48, i) + (b[16 + i % 32] & 1 << (i / 32) ? 16 : 0);
  return half(b) * scale_of(b + 4, i / 32) * code - half(b + 2) * minimum_of(b + 4, i / 32);
}

/// Per half of 128 elements: a quarter of them in the low and the high 4 bits of 64 bytes each, with 2 bits more of 32.
inline double q6_k(const Byte* b, int i) {
  const int h = i / 128, quarter = i / 32 % 4, l = i % 32;
  const Byte ql = b[h * 64 + quarter % 2 * 32 + l], qh = b[128 + h * 32 + l];
  const int code = (quarter < 2 ? ql & 15 : ql >> 4) | (qh >> (2 * quarter) & 3) << 4;
  return half(b + 208) * static_cast<int8_t>(b[192 + h * 8 + l / 16 + 2 * quarter]) * (code - 32);
}

inline double bf16(const Byte* b) {
  const uint32_t bits = static_cast<uint32_t>(b[0]) << 16 | static_cast<uint32_t>(b[1]) << 24;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

/// Element i of the block at `b`.
inline double block_value(Format format, const Byte* b, int i) {
  switch (format) {
    case Format::f32: {
      float f;
      std::memcpy(&f, b, sizeof f);
      return f;
    }
    case Format::bf16:
      return bf16(b);
    case Format::f16:
      return half(b);
    case Format::q4_0:
      return q4_0(b, i);
    case Format::q4_1:
      return q4_1(b, i);
    case Format::q5_0:
      return q5_0(b, i);
    case Format::q5_1:
      return q5_1(b, i);
    case Format::q8_0:
      return q8_0(b, i);
    case Format::q2_k:
      return q2_k(b, i);
    case Format::q3_k:
      return q3_k(b, i);
    case Format::q4_k:
      return q4_k(b, i);
    case Format::q5_k:
      return q5_k(b, i);
    case Format::q6_k:
      return q6_k(b, i);
    case Format::iq4_nl:
      return iq4_nl(b, i);
    case Format::fp8_128:
      break;
  }
  return std::nan("");
}

}  // namespace sluice::ref
