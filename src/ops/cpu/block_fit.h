// Searches for the scales of block formats: weighted least squares of a few numbers x by small integer codes l.
#pragma once
#include <cstdint>

namespace sluice::cpu {

constexpr int kMaxFit = 32;

/// x and the cost w > 0 of a squared error of each; `n` is a multiple of 8, at most kMaxFit.
struct FitData {
  const float *x, *w;
  int n;
};

/// Codes are the integers low..high.
struct CodeRange {
  int low, high;
};

/// x = d l. `d_weight`: the cost of a squared error of d.
struct ScaleFit {
  float d = 0, d_weight = 0;
};
ScaleFit fit_scale(const FitData& data, CodeRange range);

/// x = d l - m with codes 0..high, d >= 0; m >= 0 if `m_positive`.
struct AffineFit {
  float d = 0, m = 0, d_weight = 0, m_weight = 0;
};
AffineFit fit_affine(const FitData& data, int high, bool m_positive);

/// sum of w (d l - m - x)^2 with the nearest codes.
float fit_error(const FitData& data, CodeRange range, float d, float m);

/// code[i] = l - low with the nearest code l to x = d l - m; with d = 0 the code l = 0, or low.
void nearest_codes(const float* x, int n, CodeRange range, float d, float m, uint8_t* code);

}  // namespace sluice::cpu
