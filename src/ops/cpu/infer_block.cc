#include "ops/cpu/infer_block.h"

#include <cmath>

#include "ops/cpu/fp8_tile.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/infer_block.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/contrib/math/math-inl.h"
#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {

inline void put(float* y, V v, bool add) { *y = add ? *y + sum(v) : sum(v); }

// The tiles below differ in shape only. k runs over whole vectors, then once over the rest, padded with zeros.
template <class W>
void dot_4x3(const InferRows& r, const W* w, int64_t ld, int64_t depth) {
  V a0 = hn::Zero(F()), a1 = a0, a2 = a0, b0 = a0, b1 = a0, b2 = a0, c0 = a0, c1 = a0, c2 = a0, d0 = a0, d1 = a0,
    d2 = a0;
  const auto step = [&](V x0, V x1, V x2, V x3, V w0, V w1, V w2) HWY_ATTR {
    a0 = hn::MulAdd(x0, w0, a0), a1 = hn::MulAdd(x0, w1, a1), a2 = hn::MulAdd(x0, w2, a2);
    b0 = hn::MulAdd(x1, w0, b0), b1 = hn::MulAdd(x1, w1, b1), b2 = hn::MulAdd(x1, w2, b2);
    c0 = hn::MulAdd(x2, w0, c0), c1 = hn::MulAdd(x2, w1, c1), c2 = hn::MulAdd(x2, w2, c2);
    d0 = hn::MulAdd(x3, w0, d0), d1 = hn::MulAdd(x3, w1, d1), d2 = hn::MulAdd(x3, w2, d2);
  };
  const float *x0 = r.x, *x1 = x0 + r.ldx, *x2 = x1 + r.ldx, *x3 = x2 + r.ldx;
  int64_t k = 0;
  for (; k + lanes() <= depth; k += lanes())
    step(load(x0 + k), load(x1 + k), load(x2 + k), load(x3 + k), load(w + k), load(w + ld + k), load(w + 2 * ld + k));
  if (const int64_t n = depth - k; n > 0)
    step(load_n(x0 + k, n), load_n(x1 + k, n), load_n(x2 + k, n), load_n(x3 + k, n), load_n(w + k, n),
         load_n(w + ld + k, n), load_n(w + 2 * ld + k, n));
  float *y0 = r.y, *y1 = y0 + r.ldy, *y2 = y1 + r.ldy, *y3 = y2 + r.ldy;
  put(y0, a0, r.add), put(y0 + 1, a1, r.add), put(y0 + 2, a2, r.add);
  put(y1, b0, r.add), put(y1 + 1, b1, r.add), put(y1 + 2, b2, r.add);
  put(y2, c0, r.add), put(y2 + 1, c1, r.add), put(y2 + 2, c2, r.add);
  put(y3, d0, r.add), put(y3 + 1, d1, r.add), put(y3 + 2, d2, r.add);
}

template <class W>
void dot_2x4(const InferRows& r, const W* w, int64_t ld, int64_t depth) {
  V a0 = hn::Zero(F()), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  const auto step = [&](V x0, V x1, V w0, V w1, V w2, V w3) HWY_ATTR {
    a0 = hn::MulAdd(x0, w0, a0), a1 = hn::MulAdd(x0, w1, a1), a2 = hn::MulAdd(x0, w2, a2), a3 = hn::MulAdd(x0, w3, a3);
    b0 = hn::MulAdd(x1, w0, b0), b1 = hn::MulAdd(x1, w1, b1), b2 = hn::MulAdd(x1, w2, b2), b3 = hn::MulAdd(x1, w3, b3);
  };
  const float *x0 = r.x, *x1 = x0 + r.ldx;
  const W *w0 = w, *w1 = w0 + ld, *w2 = w1 + ld, *w3 = w2 + ld;
  int64_t k = 0;
  for (; k + lanes() <= depth; k += lanes())
    step(load(x0 + k), load(x1 + k), load(w0 + k), load(w1 + k), load(w2 + k), load(w3 + k));
  if (const int64_t n = depth - k; n > 0)
    step(load_n(x0 + k, n), load_n(x1 + k, n), load_n(w0 + k, n), load_n(w1 + k, n), load_n(w2 + k, n),
         load_n(w3 + k, n));
  float *y0 = r.y, *y1 = y0 + r.ldy;
  put(y0, a0, r.add), put(y0 + 1, a1, r.add), put(y0 + 2, a2, r.add), put(y0 + 3, a3, r.add);
  put(y1, b0, r.add), put(y1 + 1, b1, r.add), put(y1 + 2, b2, r.add), put(y1 + 3, b3, r.add);
}

template <class W>
void dot_1x8(const InferRows& r, const W* w, int64_t ld, int64_t depth) {
  V a0 = hn::Zero(F()), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
  const W *w0 = w, *w1 = w0 + ld, *w2 = w1 + ld, *w3 = w2 + ld, *w4 = w3 + ld, *w5 = w4 + ld, *w6 = w5 + ld,
          *w7 = w6 + ld;
  int64_t k = 0;
  for (; k + lanes() <= depth; k += lanes()) {
    const V x = load(r.x + k);
    a0 = hn::MulAdd(x, load(w0 + k), a0), a1 = hn::MulAdd(x, load(w1 + k), a1);
    a2 = hn::MulAdd(x, load(w2 + k), a2), a3 = hn::MulAdd(x, load(w3 + k), a3);
    a4 = hn::MulAdd(x, load(w4 + k), a4), a5 = hn::MulAdd(x, load(w5 + k), a5);
    a6 = hn::MulAdd(x, load(w6 + k), a6), a7 = hn::MulAdd(x, load(w7 + k), a7);
  }
  if (const int64_t n = depth - k; n > 0) {
    const V x = load_n(r.x + k, n);
    a0 = hn::MulAdd(x, load_n(w0 + k, n), a0), a1 = hn::MulAdd(x, load_n(w1 + k, n), a1);
    a2 = hn::MulAdd(x, load_n(w2 + k, n), a2), a3 = hn::MulAdd(x, load_n(w3 + k, n), a3);
    a4 = hn::MulAdd(x, load_n(w4 + k, n), a4), a5 = hn::MulAdd(x, load_n(w5 + k, n), a5);
    a6 = hn::MulAdd(x, load_n(w6 + k, n), a6), a7 = hn::MulAdd(x, load_n(w7 + k, n), a7);
  }
  put(r.y, a0, r.add), put(r.y + 1, a1, r.add), put(r.y + 2, a2, r.add), put(r.y + 3, a3, r.add);
  put(r.y + 4, a4, r.add), put(r.y + 5, a5, r.add), put(r.y + 6, a6, r.add), put(r.y + 7, a7, r.add);
}

template <class W>
void dot_1x1(const InferRows& r, const W* w, int64_t depth) {
  V a = hn::Zero(F());
  for (int64_t k = 0; k < depth; k += lanes()) a = hn::MulAdd(load_n(r.x + k, depth - k), load_n(w + k, depth - k), a);
  put(r.y, a, r.add);
}

inline InferRows shifted(const InferRows& r, int64_t row, int64_t col) {
  return {r.y + row * r.ldy + col, r.ldy, r.x + row * r.ldx, r.ldx, r.rows - row, r.add};
}

template <class W>
void dot_rows(const InferRows& r, const W* w, int64_t ld, int64_t outs, int64_t depth) {
  int64_t i = 0;
  const auto single = [&](int64_t row, int64_t j) HWY_ATTR { dot_1x1(shifted(r, row, j), w + j * ld, depth); };
  for (; i + 4 <= r.rows; i += 4) {
    int64_t j = 0;
    for (; j + 3 <= outs; j += 3) dot_4x3(shifted(r, i, j), w + j * ld, ld, depth);
    for (; j < outs; ++j)
      for (int64_t row = i; row < i + 4; ++row) single(row, j);
  }
  for (; i + 2 <= r.rows; i += 2) {
    int64_t j = 0;
    for (; j + 4 <= outs; j += 4) dot_2x4(shifted(r, i, j), w + j * ld, ld, depth);
    for (; j < outs; ++j) single(i, j), single(i + 1, j);
  }
  for (; i < r.rows; ++i) {
    int64_t j = 0;
    for (; j + 8 <= outs; j += 8) dot_1x8(shifted(r, i, j), w + j * ld, ld, depth);
    for (; j < outs; ++j) single(i, j);
  }
}

// `n` columns from the tile's first on exist; it is 2 vectors wide.
template <class W>
void axpy_4x2(const InferRows& r, const W* w, int64_t ld, int64_t n, int64_t depth) {
  const int64_t n1 = n - lanes();
  float *y0 = r.y, *y1 = y0 + r.ldy, *y2 = y1 + r.ldy, *y3 = y2 + r.ldy;
  V a0 = hn::Zero(F()), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0;
  if (r.add) {
    a0 = load_n(y0, n), b0 = load_n(y1, n), c0 = load_n(y2, n), d0 = load_n(y3, n);
    if (n1 > 0)
      a1 = load_n(y0 + lanes(), n1), b1 = load_n(y1 + lanes(), n1), c1 = load_n(y2 + lanes(), n1),
      d1 = load_n(y3 + lanes(), n1);
  }
  for (int64_t k = 0; k < depth; ++k) {
    const V w0 = load_n(w + k * ld, n), w1 = n1 > 0 ? load_n(w + k * ld + lanes(), n1) : hn::Zero(F());
    const float* x = r.x + k;
    const V x0 = hn::Set(F(), x[0]), x1 = hn::Set(F(), x[r.ldx]);
    a0 = hn::MulAdd(x0, w0, a0), a1 = hn::MulAdd(x0, w1, a1);
    b0 = hn::MulAdd(x1, w0, b0), b1 = hn::MulAdd(x1, w1, b1);
    const V x2 = hn::Set(F(), x[2 * r.ldx]), x3 = hn::Set(F(), x[3 * r.ldx]);
    c0 = hn::MulAdd(x2, w0, c0), c1 = hn::MulAdd(x2, w1, c1);
    d0 = hn::MulAdd(x3, w0, d0), d1 = hn::MulAdd(x3, w1, d1);
  }
  store_n(a0, y0, n), store_n(b0, y1, n), store_n(c0, y2, n), store_n(d0, y3, n);
  if (n1 > 0)
    store_n(a1, y0 + lanes(), n1), store_n(b1, y1 + lanes(), n1), store_n(c1, y2 + lanes(), n1),
        store_n(d1, y3 + lanes(), n1);
}

template <class W>
void axpy_1x1(const InferRows& r, const W* w, int64_t ld, int64_t n, int64_t depth) {
  V a = r.add ? load_n(r.y, n) : hn::Zero(F());
  for (int64_t k = 0; k < depth; ++k) a = hn::MulAdd(hn::Set(F(), r.x[k]), load_n(w + k * ld, n), a);
  store_n(a, r.y, n);
}

template <class W>
void axpy_1x4(const InferRows& r, const W* w, int64_t ld, int64_t depth) {
  float* y = r.y;
  const int64_t L = lanes();
  V a0 = hn::Zero(F()), a1 = a0, a2 = a0, a3 = a0;
  if (r.add) a0 = load(y), a1 = load(y + L), a2 = load(y + 2 * L), a3 = load(y + 3 * L);
  for (int64_t k = 0; k < depth; ++k) {
    const V x = hn::Set(F(), r.x[k]);
    const W* row = w + k * ld;
    a0 = hn::MulAdd(x, load(row), a0), a1 = hn::MulAdd(x, load(row + L), a1);
    a2 = hn::MulAdd(x, load(row + 2 * L), a2), a3 = hn::MulAdd(x, load(row + 3 * L), a3);
  }
  store(a0, y), store(a1, y + L), store(a2, y + 2 * L), store(a3, y + 3 * L);
}

template <class W>
void axpy_rows(const InferRows& r, const W* w, int64_t ld, int64_t outs, int64_t depth) {
  int64_t i = 0;
  for (; i + 4 <= r.rows; i += 4)
    for (int64_t j = 0; j < outs; j += 2 * lanes()) axpy_4x2(shifted(r, i, j), w + j, ld, outs - j, depth);
  for (; i < r.rows; ++i) {
    int64_t j = 0;
    for (; j + 4 * lanes() <= outs; j += 4 * lanes()) axpy_1x4(shifted(r, i, j), w + j, ld, depth);
    for (; j < outs; j += lanes()) axpy_1x1(shifted(r, i, j), w + j, ld, outs - j, depth);
  }
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
