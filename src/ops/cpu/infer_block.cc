#include "ops/cpu/infer_block.h"

#include <cmath>

#include "ops/cpu/fp8_tile.h"

// Vectors in arrays, which SVE does not allow.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/infer_block.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/contrib/math/math-inl.h"
#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {

// Tiles differ in shape only: an output is one chain over k, in vectors, whatever the tile.
constexpr int kQuad = 4;  // outputs of a dot product that are summed over lanes together
constexpr bool kManyRegisters = HWY_TARGET <= HWY_AVX3 || !HWY_ARCH_X86;

#if HWY_TARGET == HWY_SCALAR
struct Sums {
  float value[kQuad];
};
HWY_INLINE Sums sum_quad(const V* v) {
  return {{hn::GetLane(v[0]), hn::GetLane(v[1]), hn::GetLane(v[2]), hn::GetLane(v[3])}};
}
HWY_INLINE void store_quad(const Sums& v, float* out) { std::copy_n(v.value, kQuad, out); }
#else
using F4 = hn::CappedTag<float, kQuad>;
/// The sum of a vector's blocks of four lanes.
template <class D>
HWY_INLINE hn::Vec<F4> sum_blocks(D d, hn::Vec<D> v) {
  if constexpr (hn::MaxLanes(D()) > kQuad) {
    const hn::Half<D> half;
    return sum_blocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  } else {
    (void)d;
    return v;
  }
}
/// The sums over the lanes of four vectors.
HWY_INLINE hn::Vec<F4> sum_quad(const V* v) {
  const F d;
  const hn::Repartition<double, F> d64;
  const V a = hn::Add(hn::InterleaveLower(d, v[0], v[1]), hn::InterleaveUpper(d, v[0], v[1]));
  const V b = hn::Add(hn::InterleaveLower(d, v[2], v[3]), hn::InterleaveUpper(d, v[2], v[3]));
  const auto a64 = hn::BitCast(d64, a), b64 = hn::BitCast(d64, b);
  return sum_blocks(d, hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, a64, b64)),
                               hn::BitCast(d, hn::InterleaveUpper(d64, a64, b64))));
}
HWY_INLINE void store_quad(hn::Vec<F4> v, float* out) { hn::StoreU(v, F4(), out); }
#endif

inline InferRows shifted(const InferRows& r, int64_t row, int64_t col) {
  return {r.y + row * r.ldy + col, r.ldy, r.x + row * r.ldx, r.ldx, r.rows - row, r.add};
}

/// M rows times kQuads quads of outputs, of which the first `outs` exist.
template <int M, int kQuads, class W>
HWY_INLINE void dot_tile(const InferRows& r, const W* w, int64_t ld, int64_t outs, int64_t depth) {
  constexpr int N = kQuad * kQuads;
  V acc[M * N];
  const W* weights[N];
  const float* x[M];
  HWY_UNROLL(16)
  for (int i = 0; i < M * N; ++i) acc[i] = hn::Zero(F());
  HWY_UNROLL(16)
  for (int j = 0; j < N; ++j) weights[j] = w + std::min<int64_t>(j, outs - 1) * ld;
  HWY_UNROLL(4)
  for (int m = 0; m < M; ++m) x[m] = r.x + m * r.ldx;
  const auto step = [&](auto&& get, int64_t k) HWY_ATTR {
    V row[M];
    HWY_UNROLL(4)
    for (int m = 0; m < M; ++m) row[m] = get(x[m] + k);
    HWY_UNROLL(16)
    for (int j = 0; j < N; ++j) {
      const V v = get(weights[j] + k);
      HWY_UNROLL(4)
      for (int m = 0; m < M; ++m) acc[m * N + j] = hn::MulAdd(row[m], v, acc[m * N + j]);
    }
  };
  int64_t k = 0;
  for (; k + lanes() <= depth; k += lanes()) step([](const auto* p) HWY_ATTR { return load(p); }, k);
  if (const int64_t n = depth - k; n > 0) step([n](const auto* p) HWY_ATTR { return load_n(p, n); }, k);
  for (int m = 0; m < M; ++m)
    for (int q = 0; q < kQuads; ++q) {
      float sums[kQuad], *y = r.y + m * r.ldy + q * kQuad;
      store_quad(sum_quad(acc + m * N + q * kQuad), sums);
      for (int64_t j = 0; j < std::min<int64_t>(kQuad, outs - q * kQuad); ++j) y[j] = r.add ? y[j] + sums[j] : sums[j];
    }
}

template <int M, int kQuads, class W>
void dot_strip(const InferRows& r, const W* w, int64_t ld, int64_t outs, int64_t depth) {
  for (int64_t j = 0; j < outs; j += kQuads * kQuad)
    dot_tile<M, kQuads>(shifted(r, 0, j), w + j * ld, ld, std::min<int64_t>(kQuads * kQuad, outs - j), depth);
}

template <class W>
void dot_rows(const InferRows& r, const W* w, int64_t ld, int64_t outs, int64_t depth) {
  constexpr int kRows = kManyRegisters ? 4 : 2;
  int64_t i = 0;
  for (; i + kRows <= r.rows; i += kRows) dot_strip<kRows, 1>(shifted(r, i, 0), w, ld, outs, depth);
  for (; i < r.rows; ++i) dot_strip<1, 2>(shifted(r, i, 0), w, ld, outs, depth);
}

/// M rows times N vectors of outputs, all whole.
template <int M, int N, class W>
HWY_INLINE void axpy_tile(const InferRows& r, const W* w, int64_t ld, int64_t depth) {
  const int64_t L = lanes();
  V acc[M * N];
  HWY_UNROLL(4)
  for (int m = 0; m < M; ++m) {
    HWY_UNROLL(4)
    for (int n = 0; n < N; ++n) acc[m * N + n] = r.add ? load(r.y + m * r.ldy + n * L) : hn::Zero(F());
  }
  for (int64_t k = 0; k < depth; ++k) {
    V v[N];
    HWY_UNROLL(4)
    for (int n = 0; n < N; ++n) v[n] = load(w + k * ld + n * L);
    HWY_UNROLL(4)
    for (int m = 0; m < M; ++m) {
      const V x = hn::Set(F(), r.x[m * r.ldx + k]);
      HWY_UNROLL(4)
      for (int n = 0; n < N; ++n) acc[m * N + n] = hn::MulAdd(x, v[n], acc[m * N + n]);
    }
  }
  HWY_UNROLL(4)
  for (int m = 0; m < M; ++m) {
    HWY_UNROLL(4)
    for (int n = 0; n < N; ++n) store(acc[m * N + n], r.y + m * r.ldy + n * L);
  }
}

/// One row times the first n <= lanes() outputs.
template <class W>
void axpy_part(const InferRows& r, const W* w, int64_t ld, int64_t n, int64_t depth) {
  V a = r.add ? load_n(r.y, n) : hn::Zero(F());
  for (int64_t k = 0; k < depth; ++k) a = hn::MulAdd(hn::Set(F(), r.x[k]), load_n(w + k * ld, n), a);
  store_n(a, r.y, n);
}

template <int M, class W>
void axpy_strip(const InferRows& r, const W* w, int64_t ld, int64_t outs, int64_t depth) {
  constexpr int kVectors = kManyRegisters ? 4 : 2;
  int64_t j = 0;
  for (; j + kVectors * lanes() <= outs; j += kVectors * lanes())
    axpy_tile<M, kVectors>(shifted(r, 0, j), w + j, ld, depth);
  for (; j + lanes() <= outs; j += lanes()) axpy_tile<M, 1>(shifted(r, 0, j), w + j, ld, depth);
  for (int m = 0; m < M && j < outs; ++m) axpy_part(shifted(r, m, j), w + j, ld, outs - j, depth);
}

template <class W>
void axpy_rows(const InferRows& r, const W* w, int64_t ld, int64_t outs, int64_t depth) {
  int64_t i = 0;
  for (; i + 4 <= r.rows; i += 4) axpy_strip<4>(shifted(r, i, 0), w, ld, outs, depth);
  for (; i < r.rows; ++i) axpy_strip<1>(shifted(r, i, 0), w, ld, outs, depth);
}

void dot(const InferRows& r, const InferWeights& w, int64_t outs, int64_t depth) {
  w.format == Format::f32 ? dot_rows(r, static_cast<const float*>(w.data), w.ld, outs, depth)
                          : dot_rows(r, static_cast<const bf16*>(w.data), w.ld, outs, depth);
}

void axpy(const InferRows& r, const InferWeights& w, int64_t outs, int64_t depth) {
  w.format == Format::f32 ? axpy_rows(r, static_cast<const float*>(w.data), w.ld, outs, depth)
                          : axpy_rows(r, static_cast<const bf16*>(w.data), w.ld, outs, depth);
}

SoftmaxPart softmax(float* score, int64_t n, float scale) {
  V most = hn::Set(F(), score[0]);
  int64_t i = 0;
  for (; i + lanes() <= n; i += lanes()) most = hn::Max(most, load(score + i));
  float largest = hn::GetLane(hn::MaxOfLanes(F(), most));
  for (; i < n; ++i) largest = std::max(largest, score[i]);
  const V shift = hn::Set(F(), largest * scale), factor = hn::Set(F(), scale);
  V totals = hn::Zero(F());
  for (i = 0; i + lanes() <= n; i += lanes()) {
    const V e = hn::Exp(F(), hn::MulSub(load(score + i), factor, shift));
    store(e, score + i);
    totals = hn::Add(totals, e);
  }
  float total = sum(totals);
  if (i < n) store_n(hn::Exp(F(), hn::MulSub(load_n(score + i, n - i), factor, shift)), score + i, n - i);
  for (; i < n; ++i) total += score[i];
  return {largest * scale, total};
}

/// total_u = a total_u + b u.
void combine(float* total_u, float a, const float* u, float b, int64_t n) {
  const V va = hn::Set(F(), a), vb = hn::Set(F(), b);
  for (int64_t i = 0; i < n; i += lanes())
    store_n(hn::MulAdd(load_n(u + i, n - i), vb, hn::Mul(load_n(total_u + i, n - i), va)), total_u + i, n - i);
}

void scale(float* u, float factor, int64_t n) {
  for (int64_t i = 0; i < n; i += lanes()) store_n(hn::Mul(load_n(u + i, n - i), hn::Set(F(), factor)), u + i, n - i);
}

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice::cpu {

HWY_EXPORT(dot);
HWY_EXPORT(axpy);
HWY_EXPORT(softmax);
HWY_EXPORT(combine);
HWY_EXPORT(scale);

void infer_dot(const InferRows& r, const InferWeights& w, int64_t outs, int64_t depth) {
  HWY_DYNAMIC_DISPATCH(dot)(r, w, outs, depth);
}

void infer_axpy(const InferRows& r, const InferWeights& w, int64_t outs, int64_t depth) {
  HWY_DYNAMIC_DISPATCH(axpy)(r, w, outs, depth);
}

InferWeights infer_rows(const Matrix& w, int64_t begin, int64_t rows, float* scratch) {
  const void* first = w.tensor().at(begin);
  if (w.format != Format::fp8_128) return {first, w.cols, w.format};
  for (int64_t row = begin; row < begin + rows;) {  // up to the next block of scales
    const int64_t n = std::min(begin + rows, (row / kFp8Group + 1) * kFp8Group) - row;
    for (int64_t col = 0; col < w.cols; col += kFp8Group) {
      const Fp8Tile t{scratch + (row - begin) * w.cols + col, n, std::min(kFp8Group, w.cols - col), w.cols};
      fp8_unpack(t, static_cast<const uint8_t*>(w.tensor().at(row, col)), w.cols);
      fp8_scale_rows(t, w.scales + row / kFp8Group * w.scale_cols() + col / kFp8Group, 0);
    }
    row += n;
  }
  return {scratch, w.cols, Format::f32};
}

SoftmaxPart infer_softmax(float* score, int64_t n, float scale_) {
  return HWY_DYNAMIC_DISPATCH(softmax)(score, n, scale_);
}

void infer_merge(float* total_u, SoftmaxPart& total, const float* u, const SoftmaxPart& part, int64_t n) {
  const float largest = std::max(total.largest, part.largest);
  const float a = std::exp(total.largest - largest), b = std::exp(part.largest - largest);
  HWY_DYNAMIC_DISPATCH(combine)(total_u, a, u, b, n);
  total = {largest, total.total * a + part.total * b};
}

void infer_finish(float* u, const SoftmaxPart& total, int64_t n) {
  HWY_DYNAMIC_DISPATCH(scale)(u, 1.0f / total.total, n);
}

}  // namespace sluice::cpu
#endif  // HWY_ONCE
