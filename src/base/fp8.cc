#include "base/fp8.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace sluice {

uint8_t e4m3_from_f32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint8_t sign = static_cast<uint8_t>((bits >> 24) & 0x80);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7f;
  const float a = std::bit_cast<float>(magnitude);
  if (a >= kE4M3Max) return sign | 0x7e;
  if (a < 0x1p-6f) {  // subnormal: adding 2^14 leaves exactly the multiple of 2^-9, rounded to nearest even
    const float rounded = (a + 0x1p14f) - 0x1p14f;
    return sign | static_cast<uint8_t>(rounded * 512.0f);
  }
  // Drop 20 mantissa bits with ties to even; a carry runs into the exponent as it should.
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  const uint32_t code = (rounded >> 20) - ((127 - 7) << 3);
  return sign | static_cast<uint8_t>(std::min(code, 0x7eu));
}

const std::array<float, 256>& e4m3_table() {
  static const std::array<float, 256> table = [] {
    std::array<float, 256> t{};
    for (int code = 0; code < 256; ++code) {
      const int exponent = (code >> 3) & 15, mantissa = code & 7;
      float v = exponent ? std::ldexp(1.0f + static_cast<float>(mantissa) / 8.0f, exponent - 7)
                         : std::ldexp(static_cast<float>(mantissa) / 8.0f, -6);
      if ((code & 0x7f) == 0x7f) v = std::nanf("");
      t[static_cast<size_t>(code)] = code & 0x80 ? -v : v;
    }
    return t;
  }();
  return table;
}

float e4m3_to_f32(uint8_t code) { return e4m3_table()[code]; }

float ue8m0_round_up(float s) {
  const uint32_t bits = std::bit_cast<uint32_t>(s);
  uint32_t exponent = (bits >> 23) & 255u;
  if (bits & 0x7fffffu) ++exponent;
  exponent = std::clamp(exponent, 1u, 254u);
  return std::bit_cast<float>(exponent << 23);
}

}  // namespace sluice
