#include "base/dtype.h"

namespace sluice {

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return "f64";
    case DType::i64:
      return "i64";
    case DType::f32:
      return "f32";
    case DType::i32:
      return "i32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::f8_e4m3:
      return "f8_e4m3";
    case DType::u8:
      return "u8";
  }
  return "?";
}

uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const uint32_t sign = (bits >> 16) & 0x8000u;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00;
  } else if (magnitude >= 0x47800000u) {  // 2^16
    half = 0x7c00;
  } else if (magnitude < 0x38800000u) {  // below 2^-14
    // Adding 1/2 leaves the multiple of 2^-24, rounded to nearest even.
    half = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - std::bit_cast<uint32_t>(0.5f);
  } else {  // drop 13 mantissa bits with ties to even; a carry runs into the exponent as it should, up to infinity
    half = ((magnitude + 0xfffu + ((magnitude >> 13) & 1u)) >> 13) - ((127 - 15) << 10);
  }
  return static_cast<uint16_t>(sign | half);
}

}  // namespace sluice
