// Reference of ops/rope.h (specification 2.4), and the frequencies, magnitude and softmax scale of YaRN (2.5, 2.6).
#pragma once
#include <numbers>

#include "ops/ref/mat.h"

namespace sluice::ref {

/// The keys of `rope_scaling` of type yarn; factor 1 is plain RoPE.
struct Yarn {
  double base = 10000, factor = 1, beta_fast = 32, beta_slow = 1, mscale = 1, mscale_all_dim = 1;
  double original_positions = 4096;
};

/// The D / 2 angular frequencies of a rotary embedding of D channels.
inline std::vector<double> rope_inv_freq(int64_t dims, const Yarn& yarn) {
  const double d = static_cast<double>(dims);
  const auto pair_of_rotations = [&](double n) {
    return d * std::log(yarn.original_positions / (2 * std::numbers::pi * n)) / (2 * std::log(yarn.base));
  };
  const double low = std::max(std::floor(pair_of_rotations(yarn.beta_fast)), 0.0);
  double high = std::min(std::ceil(pair_of_rotations(yarn.beta_slow)), d - 1);
  if (low == high) high += 0.001;
  std::vector<double> inv_freq;
  for (int64_t i = 0; i < dims / 2; ++i) {
    const double index = static_cast<double>(i), plain = std::pow(yarn.base, -2 * index / d);
    const double ramp = std::clamp((index - low) / (high - low), 0.0, 1.0);
    inv_freq.push_back(yarn.factor > 1 ? plain / yarn.factor * ramp + plain * (1 - ramp) : plain);
  }
  return inv_freq;
}

/// m(s, a) of specification 2.5.
inline double yarn_m(double factor, double a) { return factor <= 1 ? 1 : 0.1 * a * std::log(factor) + 1; }

/// What cosines and sines are multiplied by.
inline double yarn_magnitude(const Yarn& yarn) {
  return yarn_m(yarn.factor, yarn.mscale) / yarn_m(yarn.factor, yarn.mscale_all_dim);
}

/// What scores are multiplied by, for keys of `dims` = nope + rope channels.
inline double softmax_scale(int64_t dims, const Yarn& yarn) {
  const double m = yarn_m(yarn.factor, yarn.mscale_all_dim);
  return m * m / std::sqrt(static_cast<double>(dims));
}

/// (P, R): row p holds R/2 cosines, then R/2 sines of position p.
inline Mat<double> rope_table(int64_t positions, const std::vector<double>& inv_freq, double magnitude) {
  const int64_t half = static_cast<int64_t>(inv_freq.size());
  Mat<double> table(positions, 2 * half);
  for (int64_t p = 0; p < positions; ++p)
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * inv_freq[static_cast<size_t>(i)];
      table(p, i) = magnitude * std::cos(angle);
      table(p, half + i) = magnitude * std::sin(angle);
    }
  return table;
}

/// Rotates the adjacent pairs of x (T H, R), one row per token and head.
template <class C>
Mat<C> rope(const Mat<C>& x, const std::vector<int64_t>& position, const Mat<double>& table) {
  const int64_t heads = x.rows / static_cast<int64_t>(position.size()), half = x.cols / 2;
  Mat<C> y(x.rows, x.cols);
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t i = 0; i < half; ++i) {
      const int64_t p = position[static_cast<size_t>(r / heads)];
      const double cosine = table(p, i), sine = table(p, half + i);
      y(r, 2 * i) = x(r, 2 * i) * cosine - x(r, 2 * i + 1) * sine;
      y(r, 2 * i + 1) = x(r, 2 * i) * sine + x(r, 2 * i + 1) * cosine;
    }
  return y;
}

}  // namespace sluice::ref
