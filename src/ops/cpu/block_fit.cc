#include "ops/cpu/block_fit.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sluice::cpu {
namespace {

// Sums run in this many lanes, so that the compiler can vectorise them without changing their order.
constexpr int kLanes = 8;

/// Nearest integer, ties to even, of |v| < 2^22; larger ones stay large.
float nearest(float v) { return (v + 0x1.8p23f) - 0x1.8p23f; }

/// The order of the comparisons sends NaN to `low`.
float clamp(float v, float low, float high) {
  const float a = v > low ? v : low;
  return a < high ? a : high;
}

double total(const float (&lanes)[kLanes]) {
  double sum = 0;
  for (float v : lanes) sum += v;
  return sum;
}

/// Sums of w l, w l l and w x l over the codes l nearest to x inverse.
struct CodeSums {
  double l, ll, xl;
};
CodeSums code_sums(const FitData& data, CodeRange range, float inverse) {
  const float low = static_cast<float>(range.low), high = static_cast<float>(range.high);
  float l1[kLanes] = {}, l2[kLanes] = {}, xl[kLanes] = {};
  for (int i = 0; i < data.n; i += kLanes)
    for (int k = 0; k < kLanes; ++k) {
      const float x = data.x[i + k], l = clamp(nearest(x * inverse), low, high), wl = data.w[i + k] * l;
      l1[k] += wl;
      l2[k] += wl * l;
      xl[k] += wl * x;
    }
  return {total(l1), total(l2), total(xl)};
}

}  // namespace

ScaleFit fit_scale(const FitData& data, CodeRange range) {
  float peak = 0;
  for (int i = 0; i < data.n; ++i)
    if (std::fabs(data.x[i]) > std::fabs(peak)) peak = data.x[i];
  if (peak == 0) return {};
  // The largest number gets the code farthest from 0, or somewhat more or less; d = xl / ll leaves least error, and the
  // error is less the larger xl^2 / ll.
  const int target = -range.low > range.high ? range.low : range.high;
  CodeSums best{0, 1, 0};
  for (int k = -9; k <= 9; ++k) {
    const float inverse = (static_cast<float>(target) + 0.1f * static_cast<float>(k)) / peak;
    const CodeSums s = code_sums(data, range, inverse);
    if (s.xl * s.xl * best.ll > best.xl * best.xl * s.ll) best = s;
  }
  return {static_cast<float>(best.xl / best.ll), static_cast<float>(best.ll)};
}

AffineFit fit_affine(const FitData& data, int high, bool m_positive) {
  float low_x = m_positive ? 0 : data.x[0], high_x = low_x;
  for (int i = 0; i < data.n; ++i) {
    low_x = std::min(low_x, data.x[i]);
    high_x = std::max(high_x, data.x[i]);
  }
  float z[kMaxFit];  // x - low_x = d l - c
  double w = 0, wz = 0;
  for (int i = 0; i < data.n; ++i) {
    z[i] = data.x[i] - low_x;
    w += data.w[i];
    wz += static_cast<double>(data.w[i]) * z[i];
  }
  AffineFit best{0, -low_x, 0, static_cast<float>(w)};
  if (high_x == low_x) return best;
  double best_gain = -std::numeric_limits<double>::infinity();
  for (int k = -18; k <= 18; ++k) {
    const float inverse = (static_cast<float>(high) + 0.05f * static_cast<float>(k)) / (high_x - low_x);
    const CodeSums s = code_sums({z, data.w, data.n}, {0, high}, inverse);
    if (s.ll == 0) continue;
    const double determinant = w * s.ll - s.l * s.l;
    double d = (w * s.xl - wz * s.l) / determinant, c = (s.l * s.xl - s.ll * wz) / determinant;
    // Where the codes are all but equal, their sums in float32 do not tell d from c.
    if (!(determinant > 1e-4 * w * s.ll) || (m_positive && c < low_x)) {
      c = m_positive ? low_x : 0;  // m = 0, or the least element is kept
      d = (s.xl + c * s.l) / s.ll;
    }
    const double gain = d * (2 * s.xl - d * s.ll + 2 * c * s.l) - c * (2 * wz + c * w);  // sum w z^2 less the error
    if (d > 0 && gain > best_gain) {
      best_gain = gain;
      best = {static_cast<float>(d), static_cast<float>(c - low_x), static_cast<float>(s.ll), best.m_weight};
    }
  }
  return best;
}

float fit_error(const FitData& data, CodeRange range, float d, float m) {
  const float low = static_cast<float>(range.low), high = static_cast<float>(range.high), inverse = d != 0 ? 1 / d : 0;
  float error[kLanes] = {};
  for (int i = 0; i < data.n; i += kLanes)
    for (int k = 0; k < kLanes; ++k) {
      const float x = data.x[i + k] + m, e = clamp(nearest(x * inverse), low, high) * d - x;
      error[k] += data.w[i + k] * e * e;
    }
  return static_cast<float>(total(error));
}

void nearest_codes(const float* x, int n, CodeRange range, float d, float m, uint8_t* code) {
  const float low = static_cast<float>(range.low), high = static_cast<float>(range.high), inverse = d != 0 ? 1 / d : 0;
  for (int i = 0; i < n; ++i)
    code[i] = static_cast<uint8_t>(static_cast<int>(clamp(nearest((x[i] + m) * inverse), low, high)) - range.low);
}

}  // namespace sluice::cpu
