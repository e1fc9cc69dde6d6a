// Blocks of 32.
#include <algorithm>
#include <cmath>

#include "ops/cpu/block_encode.h"
#include "ops/cpu/block_fit.h"

namespace sluice::cpu {
namespace {

constexpr int kSize = 32;

struct Extremes {
  float low, high;
};
Extremes extremes(const float* x) {
  Extremes e{x[0], x[0]};
  for (int i = 1; i < kSize; ++i) e = {std::min(e.low, x[i]), std::max(e.high, x[i])};
  return e;
}

/// The first element of largest magnitude.
float peak(const float* x) {
  float p = 0;
  for (int i = 0; i < kSize; ++i)
    if (std::fabs(x[i]) > std::fabs(p)) p = x[i];
  return p;
}

/// 1 / d, or 0 where that is not finite: the scale is then far below the smallest half.
float inverse(float d) {
  const float r = 1 / d;
  return std::isfinite(r) ? r : 0;
}

/// Codes of q4_0 and q5_0 and their scale: n in [0, 2 half), x = d (n - half).
uint16_t symmetric_codes(const float* x, const float* importance, int half, uint8_t* code) {
  if (importance) {
    float w[kSize];
    error_weights(x, importance, kSize, w);
    const CodeRange range{-half, half - 1};
    const uint16_t d = f32_to_f16(fit_scale({x, w, kSize}, range).d);
    nearest_codes(x, kSize, range, f16_to_f32(d), 0, code);
    return d;
  }
  const float d = peak(x) / static_cast<float>(-half), id = inverse(d), middle = static_cast<float>(half) + 0.5f;
  for (int i = 0; i < kSize; ++i)
    code[i] = static_cast<uint8_t>(std::min(2 * half - 1, static_cast<int>(x[i] * id + middle)));
  return f32_to_f16(d);
}

struct HalfPair {
  uint16_t d, m;
};

/// Codes of q4_1 and q5_1 and their scale and minimum: n in [0, high], x = d n + m.
HalfPair affine_codes(const float* x, const float* importance, int high, uint8_t* code) {
  if (importance) {
    float w[kSize];
    error_weights(x, importance, kSize, w);
    const AffineFit fit = fit_affine({x, w, kSize}, high, false);
    const HalfPair p{f32_to_f16(fit.d), f32_to_f16(-fit.m)};
    nearest_codes(x, kSize, {0, high}, f16_to_f32(p.d), -f16_to_f32(p.m), code);
    return p;
  }
  const Extremes e = extremes(x);
  const float d = (e.high - e.low) / static_cast<float>(high), id = inverse(d);
  for (int i = 0; i < kSize; ++i)
    code[i] = static_cast<uint8_t>(std::min(high, static_cast<int>((x[i] - e.low) * id + 0.5f)));
  return {f32_to_f16(d), f32_to_f16(e.low)};
}

/// Bit 4 of the codes, in order.
void pack_fifth_bits(const uint8_t* code, uint8_t (&high)[4]) {
  for (int i = 0; i < 4; ++i) {
    int byte = 0;
    for (int k = 0; k < 8; ++k) byte |= (code[8 * i + k] >> 4) << k;
    high[i] = static_cast<uint8_t>(byte);
  }
}

/// The code of the value of iq4_nl nearest to v; of two equally near ones the larger.
class NearestIq4 {
 public:
  NearestIq4() {
    int code = 0;
    for (int twice = -256; twice < 256; ++twice) {
      while (code < 15 && twice >= kIq4Values[static_cast<size_t>(code)] + kIq4Values[static_cast<size_t>(code) + 1])
        ++code;
      table_[static_cast<size_t>(twice + 256)] = static_cast<uint8_t>(code);
    }
  }
  uint8_t operator()(float v) const {
    // Middles between values are multiples of 1/2.
    const float twice = std::floor(std::min(std::max(2 * v, -256.0f), 255.0f));
    return table_[static_cast<size_t>(twice + 256)];
  }

 private:
  std::array<uint8_t, 512> table_;
};
const NearestIq4 kNearestIq4;

}  // namespace

void error_weights(const float* x, const float* importance, int n, float* w) {
  double squares = 0, mean = 0;
  for (int i = 0; i < n; ++i) {
    squares += static_cast<double>(x[i]) * x[i];
    if (importance) mean += importance[i];
  }
  const float variance = static_cast<float>(squares / n);
  for (int i = 0; i < n; ++i) w[i] = std::sqrt(variance + x[i] * x[i]);
  // Never 0: channels that no text of the importance matrix excited are not worthless.
  if (mean > 0)
    for (int i = 0; i < n; ++i) w[i] *= static_cast<float>(static_cast<double>(importance[i]) * n / mean) + 1e-4f;
}

void encode(const float* x, const float* importance, BlockQ4_0& b) {
  uint8_t code[kSize];
  b.d = symmetric_codes(x, importance, 8, code);
  pack_planes<16, 4>(code, kSize, b.q);
}

void encode(const float* x, const float* importance, BlockQ5_0& b) {
  uint8_t code[kSize];
  b.d = symmetric_codes(x, importance, 16, code);
  pack_planes<16, 4>(code, kSize, b.q);
  pack_fifth_bits(code, b.high);
}

void encode(const float* x, const float* importance, BlockQ4_1& b) {
  uint8_t code[kSize];
  const HalfPair p = affine_codes(x, importance, 15, code);
  b.d = p.d, b.m = p.m;
  pack_planes<16, 4>(code, kSize, b.q);
}

void encode(const float* x, const float* importance, BlockQ5_1& b) {
  uint8_t code[kSize];
  const HalfPair p = affine_codes(x, importance, 31, code);
  b.d = p.d, b.m = p.m;
  pack_planes<16, 4>(code, kSize, b.q);
  pack_fifth_bits(code, b.high);
}

void encode(const float* x, const float*, BlockQ8_0& b) {
  const float d = std::fabs(peak(x)) / 127, id = inverse(d);
  b.d = f32_to_f16(d);
  for (int i = 0; i < kSize; ++i) b.q[i] = static_cast<int8_t>(std::round(x[i] * id));
}

void encode(const float* x, const float* importance, BlockIq4Nl& b) {
  float w[kSize];
  error_weights(x, importance, kSize, w);
  const float largest = peak(x);
  double best_xv = 0, best_vv = 1;
  for (int k = -7; k <= 7 && largest != 0; ++k) {
    const float id = static_cast<float>(kIq4Values[0] + k) / largest;
    double xv = 0, vv = 0;
    for (int i = 0; i < kSize; ++i) {
      const float v = kIq4Values[kNearestIq4(x[i] * id)];
      xv += w[i] * v * x[i];
      vv += w[i] * v * v;
    }
    if (xv * xv * best_vv > best_xv * best_xv * vv) best_xv = xv, best_vv = vv;
  }
  b.d = f32_to_f16(static_cast<float>(best_xv / best_vv));
  const float id = inverse(f16_to_f32(b.d));
  uint8_t code[kSize];
  for (int i = 0; i < kSize; ++i) code[i] = kNearestIq4(x[i] * id);
  pack_planes<16, 4>(code, kSize, b.q);
}

}  // namespace sluice::cpu
