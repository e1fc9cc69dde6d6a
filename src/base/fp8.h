// E4M3FN, the 8-bit float of DeepSeek-V3's weights and activations (specification 5.5): bias 7, no infinity,
// NaN only 0x7F and 0xFF, largest finite 448, smallest subnormal 2^-9.
#pragma once
#include <array>
#include <cstdint>

namespace sluice {

constexpr float kE4M3Max = 448.0f;

/// Rounds to nearest, ties to even mantissa; saturates to +-448; NaN stays NaN (0x7F with the sign).
uint8_t e4m3_from_f32(float value);

/// Exact value of a code; 0x7F and 0xFF give NaN.
float e4m3_to_f32(uint8_t code);

/// The 256 values, for kernels that look codes up.
const std::array<float, 256>& e4m3_table();

/// The smallest power of two >= s, exponent clamped to [1, 254] (UE8M0 scales; specification 5.4: rounds up, never to
/// nearest, so that amax / scale stays within 448).
float ue8m0_round_up(float s);

}  // namespace sluice
