// Scalar types of tensors, and the two small floats the CPU has no type for (bf16 here, E4M3 in base/fp8.h).
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

namespace sluice {

enum class DType : uint8_t { f32, bf16, f16, f8_e4m3, f64, i64, i32, u8 };

/// Bytes of one element.
constexpr size_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::f8_e4m3:
    case DType::u8:
      return 1;
  }
  return 0;
}

/// "f32", "bf16", ...: the names of options and messages.
const char* dtype_name(DType dtype);

/// bfloat16: the upper half of a float32, rounded to nearest even; NaN stays NaN.
struct bf16 {
  uint16_t bits = 0;
  bf16() = default;
  explicit bf16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    bits = (u & 0x7fffffffu) > 0x7f800000u ? static_cast<uint16_t>((u >> 16) | 0x40u)
                                           : static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

/// IEEE half to float32, exact; NaN stays NaN.
inline float f16_to_f32(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
  if (magnitude < 0x400u) {  // subnormal: a multiple of 2^-24
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return sign ? -value : value;
  }
  const uint32_t bias = magnitude < 0x7c00u ? 127 - 15 : 255 - 31;
  return std::bit_cast<float>(sign | ((magnitude << 13) + (bias << 23)));
}

/// float32 to IEEE half, to nearest, ties to even; infinity from 65520 on; NaN stays NaN.
uint16_t f32_to_f16(float value);

}  // namespace sluice
