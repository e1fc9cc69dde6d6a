// Blocks of 256 whose sub-blocks have integer scales: first the best scale of every sub-block for itself, then the
// common factor that fits these best, then of each sub-block the best integer scale near to it, and the codes.
#include <algorithm>
#include <cmath>

#include "ops/cpu/block_encode.h"
#include "ops/cpu/block_fit.h"

namespace sluice::cpu {
namespace {

constexpr int kSize = 256;

/// x = d s l per 16 elements.
struct SymmetricBlock {
  uint16_t d = 0;
  int s[16] = {};
  uint8_t code[kSize];
};

/// x = d s l - m t per sub-block.
struct AffineBlock {
  uint16_t d = 0, m = 0;
  ScalePair scales[16] = {};
  uint8_t code[kSize];
};

int nearest_scale(float v, float d, CodeRange range) {
  if (d == 0) return 0;
  const float s = v / d;
  return std::clamp(static_cast<int>(std::nearbyint(s)), range.low, range.high);
}

SymmetricBlock fit_symmetric_block(const float* x, const float* w, CodeRange codes, CodeRange scales) {
  constexpr int kSub = 16, kCount = kSize / kSub;
  SymmetricBlock b;
  float d[kCount], d_weight[kCount];
  for (int j = 0; j < kCount; ++j) {
    const ScaleFit fit = fit_scale({x + j * kSub, w + j * kSub, kSub}, codes);
    d[j] = fit.d, d_weight[j] = fit.d_weight;
  }
  b.d = f32_to_f16(fit_scale({d, d_weight, kCount}, scales).d);
  const float factor = f16_to_f32(b.d);
  for (int j = 0; j < kCount; ++j) {
    const FitData data{x + j * kSub, w + j * kSub, kSub};
    const int near = nearest_scale(d[j], factor, scales);
    float least = 0;
    for (int s = std::max(near - 1, scales.low); s <= std::min(near + 1, scales.high); ++s) {
      const float error = fit_error(data, codes, factor * static_cast<float>(s), 0);
      if (s == std::max(near - 1, scales.low) || error < least) least = error, b.s[j] = s;
    }
    nearest_codes(data.x, kSub, codes, factor * static_cast<float>(b.s[j]), 0, b.code + j * kSub);
  }
  return b;
}

float weighted_mean(const FitData& data) {
  double w = 0, wx = 0;
  for (int i = 0; i < data.n; ++i) {
    w += data.w[i];
    wx += static_cast<double>(data.w[i]) * data.x[i];
  }
  return w > 0 ? static_cast<float>(wx / w) : 0;
}

AffineBlock fit_affine_block(const float* x, const float* w, int sub, int high, int scale_high) {
  const int count = kSize / sub;
  const CodeRange scales{0, scale_high}, codes{0, high};
  AffineBlock b;
  float d[16], m[16], d_weight[16], m_weight[16];
  for (int j = 0; j < count; ++j) {
    const AffineFit fit = fit_affine({x + j * sub, w + j * sub, sub}, high, true);
    d[j] = fit.d, m[j] = fit.m, d_weight[j] = fit.d_weight, m_weight[j] = fit.m_weight;
  }
  b.d = f32_to_f16(fit_scale({d, d_weight, count}, scales).d);
  b.m = f32_to_f16(fit_scale({m, m_weight, count}, scales).d);
  const float d_factor = f16_to_f32(b.d), m_factor = f16_to_f32(b.m);
  for (int j = 0; j < count; ++j) {
    const FitData data{x + j * sub, w + j * sub, sub};
    const int s0 = nearest_scale(d[j], d_factor, scales), t0 = nearest_scale(m[j], m_factor, scales);
    float least = INFINITY;
    const auto consider = [&](int scale, int minimum) {
      const float error =
          fit_error(data, codes, d_factor * static_cast<float>(scale), m_factor * static_cast<float>(minimum));
      if (error < least) least = error, b.scales[j] = {scale, minimum};
    };
    for (int s = std::max(s0 - 1, 0); s <= std::min(s0 + 1, scale_high); ++s)
      for (int t = std::max(t0 - 1, 0); t <= std::min(t0 + 1, scale_high); ++t) consider(s, t);
    // Steps can be too small for the common factor, even for a half: without them the least element is no good minimum.
    consider(0, nearest_scale(-weighted_mean(data), m_factor, scales));
    nearest_codes(data.x, sub, codes, d_factor * static_cast<float>(b.scales[j].s),
                  m_factor * static_cast<float>(b.scales[j].t), b.code + j * sub);
  }
  return b;
}

}  // namespace

void encode(const float* x, const float* importance, BlockQ2K& b) {
  float w[kSize];
  error_weights(x, importance, kSize, w);
  const AffineBlock fit = fit_affine_block(x, w, 16, 3, 15);
  b.d = fit.d, b.m = fit.m;
  for (int j = 0; j < 16; ++j) b.scales[j] = static_cast<uint8_t>(fit.scales[j].s | fit.scales[j].t << 4);
  pack_planes<32, 2>(fit.code, kSize, b.q);
}

void encode(const float* x, const float* importance, BlockQ3K& b) {
  float w[kSize];
  error_weights(x, importance, kSize, w);
  const SymmetricBlock fit = fit_symmetric_block(x, w, {-4, 3}, {-32, 31});
  b.d = fit.d;
  uint8_t s[16];
  for (int j = 0; j < 16; ++j) s[j] = static_cast<uint8_t>(fit.s[j] + 32);
  pack_q3k_scales(s, b.scales);
  pack_planes<32, 2>(fit.code, kSize, b.q);
  pack_planes<32, 1, 2>(fit.code, kSize, b.high);
}

void encode(const float* x, const float* importance, BlockQ4K& b) {
  float w[kSize];
  error_weights(x, importance, kSize, w);
  const AffineBlock fit = fit_affine_block(x, w, 32, 15, 63);
  b.d = fit.d, b.m = fit.m;
  pack_scale_pairs(fit.scales, b.scales);
  pack_planes<32, 4>(fit.code, kSize, b.q);
}

void encode(const float* x, const float* importance, BlockQ5K& b) {
  float w[kSize];
  error_weights(x, importance, kSize, w);
  const AffineBlock fit = fit_affine_block(x, w, 32, 31, 63);
  b.d = fit.d, b.m = fit.m;
  pack_scale_pairs(fit.scales, b.scales);
  pack_planes<32, 4>(fit.code, kSize, b.q);
  pack_planes<32, 1, 4>(fit.code, kSize, b.high);
}

void encode(const float* x, const float* importance, BlockQ6K& b) {
  float w[kSize];
  error_weights(x, importance, kSize, w);
  const SymmetricBlock fit = fit_symmetric_block(x, w, {-32, 31}, {-128, 127});
  b.d = fit.d;
  for (int j = 0; j < 16; ++j) b.scales[j] = static_cast<int8_t>(fit.s[j]);
  pack_planes<64, 4>(fit.code, kSize, b.q);
  pack_planes<32, 2, 4>(fit.code, kSize, b.high);
}

}  // namespace sluice::cpu
