#include "ops/attention.h"

#include <cmath>

#include "ops/cpu/convert.h"
#include "ops/cpu/gemm_f32.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ops/cpu/simd-inl.h"

// One task = one head of one sequence. Queries are taken in blocks; a block's scores against all keys up to its end
// are the only part of the score matrix in memory. Products of blocks are gemm_f32 calls.
HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {

/// p[first..last] = exp(scale score - log-sum-exp) over the visible keys, 0 in the rest of the n columns.
float softmax_row(float* p, int64_t first, int64_t last, int64_t n, float scale) {
  const int64_t count = last - first + 1;
  float* row = p + first;
  V most = hn::Set(F(), row[0]);
  int64_t i = 0;
  for (; i + lanes() <= count; i += lanes()) most = hn::Max(most, load(row + i));
  float largest = hn::GetLane(hn::MaxOfLanes(F(), most));
  for (; i < count; ++i) largest = std::max(largest, row[i]);
  const V vm = hn::Set(F(), largest * scale), vs = hn::Set(F(), scale);
  float total = 0;
  V totals = hn::Zero(F());
  for (i = 0; i < count; i += lanes()) {
    const V e = exp(hn::MulSub(load_n(row + i, count - i), vs, vm));
    store_n(e, row + i, count - i);
    if (i + lanes() <= count)
      totals = hn::Add(totals, e);
    else
      for (int64_t j = i; j < count; ++j) total += row[j];
  }
  total += sum(totals);
  const V inverse = hn::Set(F(), 1.0f / total);
  for (i = 0; i < count; i += lanes()) store_n(hn::Mul(load_n(row + i, count - i), inverse), row + i, count - i);
  std::fill(p, p + first, 0.0f);
  std::fill(p + last + 1, p + n, 0.0f);
  return largest * scale + std::log(total);
}

/// p = exp(scale score - lse) on the visible keys, 0 elsewhere; then dp = scale p (dp - delta).
void backward_row(float* p, float* dp, int64_t first, int64_t last, int64_t n, float scale, float lse, float delta) {
  const int64_t count = last - first + 1;
  const V vs = hn::Set(F(), scale), vl = hn::Set(F(), lse), vd = hn::Set(F(), delta);
  for (int64_t i = 0; i < count; i += lanes()) {
    const V e = exp(hn::MulSub(load_n(p + first + i, count - i), vs, vl));
    const V d = hn::Mul(hn::Mul(e, vs), hn::Sub(load_n(dp + first + i, count - i), vd));
    store_n(e, p + first + i, count - i);
    store_n(d, dp + first + i, count - i);
  }
  std::fill(p, p + first, 0.0f);
  std::fill(p + last + 1, p + n, 0.0f);
  std::fill(dp, dp + first, 0.0f);
  std::fill(dp + last + 1, dp + n, 0.0f);
}

float dot_row(const float* a, const float* b, int64_t n) {
  V total = hn::Zero(F());
  for (int64_t i = 0; i < n; i += lanes()) total = hn::MulAdd(load_n(a + i, n - i), load_n(b + i, n - i), total);
  return sum(total);
}

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "ops/cpu/attention_head.h"

namespace sluice::cpu {

HWY_EXPORT(softmax_row);
HWY_EXPORT(backward_row);
HWY_EXPORT(dot_row);

namespace {

constexpr int64_t kQueries = 64;

void forward_head(const HeadBuffers& k, Tensor o, Tensor lse, const AttentionInputs& in, const AttentionShape& a,
                  int64_t b, int64_t h) {
  const int64_t S = a.tokens, width = a.nope + a.rope;
  for (int64_t i = 0; i < S; i += kQueries) {
    const int64_t rows = std::min(kQueries, S - i), keys = i + rows;
    const Block q = as_f32(head_rows(in.q, b * S + i, rows, h, width), k.query);
    gemm_f32({rows, keys, width}, {q.data, q.ld}, {k.key, width, true}, 0.0f, k.score, keys);
    for (int64_t r = 0; r < rows; ++r)
      lse.f32()[(b * S + i + r) * a.heads + h] = HWY_DYNAMIC_DISPATCH(softmax_row)(
          k.score + r * keys, first_key(in.first_T, b * S + i + r), i + r, keys, a.scale);
    gemm_f32({rows, a.value, keys}, {k.score, keys}, {k.value, a.value}, 0.0f, k.out, a.value);
    store_f32(head_rows(o, b * S + i, rows, h, a.value), k.out, Out::set);
  }
}

/// Gradients of the keys and values are gathered in k.d_key, k.d_value; those of the queries are written.
void backward_head(const HeadBuffers& k, const AttentionInputs& grad, const Tensor& d_o, const AttentionInputs& in,
                   const Tensor& o, const Tensor& lse, const AttentionShape& a, HeadIndex head) {
  const int64_t S = a.tokens, width = a.nope + a.rope, h = head.head;
  std::fill(k.d_key, k.d_key + S * width, 0.0f);
  std::fill(k.d_value, k.d_value + S * a.value, 0.0f);
  for (int64_t i = 0; i < S; i += kQueries) {
    const int64_t rows = std::min(kQueries, S - i), keys = i + rows, row = head.sequence * S + i;
    const Block q = as_f32(head_rows(in.q, row, rows, h, width), k.query);
    const Block out = as_f32(head_rows(o, row, rows, h, a.value), k.out);
    const Block d_out = as_f32(head_rows(d_o, row, rows, h, a.value), k.d_out);
    gemm_f32({rows, keys, width}, {q.data, q.ld}, {k.key, width, true}, 0.0f, k.score, keys);
    gemm_f32({rows, keys, a.value}, {d_out.data, d_out.ld}, {k.value, a.value, true}, 0.0f, k.d_score, keys);
    for (int64_t r = 0; r < rows; ++r) {
      const float delta = HWY_DYNAMIC_DISPATCH(dot_row)(d_out.data + r * d_out.ld, out.data + r * out.ld, a.value);
      HWY_DYNAMIC_DISPATCH(backward_row)
      (k.score + r * keys, k.d_score + r * keys, first_key(in.first_T, row + r), i + r, keys, a.scale,
       lse.f32()[(row + r) * a.heads + h], delta);
    }
    gemm_f32({keys, a.value, rows}, {k.score, keys, true}, {d_out.data, d_out.ld}, 1.0f, k.d_value, a.value);
    gemm_f32({keys, width, rows}, {k.d_score, keys, true}, {q.data, q.ld}, 1.0f, k.d_key, width);
    gemm_f32({rows, width, keys}, {k.d_score, keys}, {k.key, width}, 0.0f, k.d_query, width);
    store_f32(head_rows(grad.q, row, rows, h, width), k.d_query, Out::set);
  }
}

}  // namespace

void attention_forward(Stream& s, Tensor o, Tensor lse, const AttentionInputs& in, const AttentionShape& a) {
  s.pool().run(a.batch * a.heads, [&](int64_t task, int thread) {
    const int64_t b = task / a.heads, h = task % a.heads;
    const HeadBuffers k(s, thread, a, kQueries);
    load_keys(k, in, a, b, h);
    forward_head(k, o, lse, in, a, b, h);
  });
}

void attention_backward_input(Stream& s, const AttentionInputs& grad, const Tensor& d_o, const AttentionInputs& in,
                              const Tensor& o, const Tensor& lse, const AttentionShape& a) {
  // The rope part of the key is shared: each head leaves its share here, then they are added in head order.
  const int64_t S = a.tokens, T = a.batch * S;
  float* d_rope_HTR = s.shared_scratch(static_cast<size_t>(a.heads * T * a.rope));
  s.pool().run(a.batch * a.heads, [&](int64_t task, int thread) {
    const int64_t b = task / a.heads, h = task % a.heads;
    const HeadBuffers k(s, thread, a, kQueries);
    load_keys(k, in, a, b, h);
    backward_head(k, grad, d_o, in, o, lse, a, {b, h});
    store_key_gradients(k, grad, d_rope_HTR + (h * T + b * S) * a.rope, a, b, h);
  });
  parallel_for(s, T, kQueries, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* total = d_rope_HTR + t * a.rope;
      for (int64_t h = 1; h < a.heads; ++h)
        for (int64_t i = 0; i < a.rope; ++i) total[i] += d_rope_HTR[(h * T + t) * a.rope + i];
      convert(grad.k_rope.at(t), grad.k_rope.dtype, total, DType::f32, a.rope);
    }
  });
}

}  // namespace sluice::cpu
#endif  // HWY_ONCE
