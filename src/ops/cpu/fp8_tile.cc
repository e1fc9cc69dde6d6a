#include "ops/cpu/fp8_tile.h"

#include "base/fp8.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/fp8_tile.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {

using U = hn::RebindToUnsigned<F>;
using I = hn::RebindToSigned<F>;

/// The E4M3 value nearest to |x| <= 448 (and what exceeds it by a rounding), ties to even; NaN stays NaN. Adding and
/// subtracting 2^20 times the power of two of |x| (at least that of the smallest normal, 2^-6) leaves 3 mantissa bits,
/// rounded by the hardware.
inline V round_e4m3(V x) {
  const U u;
  const V a = hn::Abs(x);
  const auto exponent = hn::Max(hn::ShiftRight<23>(hn::BitCast(u, a)), hn::Set(u, 127 - 6));
  const V c = hn::BitCast(F(), hn::ShiftLeft<23>(hn::Add(exponent, hn::Set(u, 20))));
  return hn::CopySign(hn::Sub(hn::Add(a, c), c), x);
}

/// max(most, |x|); a NaN in x does not count.
inline V max_abs(V most, V x) {
  const V a = hn::Abs(x);
  return hn::IfThenElse(hn::Gt(a, most), a, most);
}

/// The scales of groups with these maxima. Of finite ones the exponent stays far within float32's (1e-4 / 448 up to
/// 2^120); an infinite one stays infinite in both kinds.
inline V group_scale(V amax, bool power_of_two) {
  const V s = hn::Div(hn::Max(amax, hn::Set(F(), 1e-4f)), hn::Set(F(), kE4M3Max));
  if (!power_of_two) return s;
  const U u;
  const auto up = hn::ShiftRight<23>(hn::Add(hn::BitCast(u, s), hn::Set(u, 0x7fffff)));
  return hn::BitCast(F(), hn::ShiftLeft<23>(up));
}

float row_amax(const float* x, int64_t n) {
  V most = hn::Zero(F());
  for (int64_t j = 0; j < n; j += lanes()) most = max_abs(most, load_n(x + j, n - j));
  return hn::GetLane(hn::MaxOfLanes(F(), most));
}

void quantize_row(float* x, int64_t n, float scale) {
  const V s = hn::Set(F(), scale);
  for (int64_t j = 0; j < n; j += lanes()) store_n(round_e4m3(hn::Div(load_n(x + j, n - j), s)), x + j, n - j);
}

template <class T>
void load_row(float* t, const T* x, int64_t n) {
  for (int64_t j = 0; j < n; j += lanes()) store_n(load_n(x + j, n - j), t + j, n - j);
}

void load_tile(const Fp8Tile& t, const Tensor& x, int64_t row, int64_t col) {
  for (int64_t i = 0; i < t.rows; ++i) {
    if (x.dtype == DType::f32)
      load_row(t.row(i), static_cast<const float*>(x.at(row + i, col)), t.cols);
    else
      load_row(t.row(i), static_cast<const bf16*>(x.at(row + i, col)), t.cols);
  }
}

template <class T>
void store_row(T* y, const float* t, int64_t n, bool add) {
  for (int64_t j = 0; j < n; j += lanes()) {
    const V v = load_n(t + j, n - j);
    store_n(add ? hn::Add(load_n(y + j, n - j), v) : v, y + j, n - j);
  }
}

void store_tile(const Tensor& y, int64_t row, int64_t col, const Fp8Tile& t, bool add) {
  for (int64_t i = 0; i < t.rows; ++i) {
    if (y.dtype == DType::f32)
      store_row(static_cast<float*>(y.at(row + i, col)), t.row(i), t.cols, add);
    else
      store_row(static_cast<bf16*>(y.at(row + i, col)), t.row(i), t.cols, add);
  }
}

float quantize_block(const Fp8Tile& t, bool power_of_two) {
  float amax = 0;
  for (int64_t i = 0; i < t.rows; ++i) amax = std::max(amax, row_amax(t.row(i), t.cols));
  const float scale = hn::GetLane(group_scale(hn::Set(F(), amax), power_of_two));
  for (int64_t i = 0; i < t.rows; ++i) quantize_row(t.row(i), t.cols, scale);
  return scale;
}

void quantize_rows(const Fp8Tile& t, float* scale, int64_t stride, bool power_of_two) {
  for (int64_t i = 0; i < t.rows; ++i) {
    const V amax = hn::Set(F(), row_amax(t.row(i), t.cols));
    scale[i * stride] = hn::GetLane(group_scale(amax, power_of_two));
    quantize_row(t.row(i), t.cols, scale[i * stride]);
  }
}

void quantize_columns(const Fp8Tile& t, float* scale, bool power_of_two) {
  for (int64_t j = 0; j < t.cols; j += lanes()) store_n(hn::Zero(F()), scale + j, t.cols - j);
  for (int64_t i = 0; i < t.rows; ++i) {
    const float* x = t.row(i);
    for (int64_t j = 0; j < t.cols; j += lanes()) {
      const int64_t n = t.cols - j;
      store_n(max_abs(load_n(scale + j, n), load_n(x + j, n)), scale + j, n);
    }
  }
  for (int64_t j = 0; j < t.cols; j += lanes())
    store_n(group_scale(load_n(scale + j, t.cols - j), power_of_two), scale + j, t.cols - j);
  for (int64_t i = 0; i < t.rows; ++i) {
    float* x = t.row(i);
    for (int64_t j = 0; j < t.cols; j += lanes()) {
      const int64_t n = t.cols - j;
      store_n(round_e4m3(hn::Div(load_n(x + j, n), load_n(scale + j, n))), x + j, n);
    }
  }
}

/// The codes of E4M3 values. A subnormal m 2^-9 plus 2^-6 has mantissa m and the exponent of 2^-6.
inline auto encode(V x) {
  const U u;
  const V a = hn::Abs(x), least = hn::Set(F(), 0x1p-6f);
  const auto subnormal = hn::Lt(a, least);
  const auto bits = hn::ShiftRight<20>(hn::BitCast(u, hn::IfThenElse(subnormal, hn::Add(a, least), a)));
  const auto bias = hn::IfThenElse(hn::RebindMask(u, subnormal), hn::Set(u, 121 << 3), hn::Set(u, 120 << 3));
  const auto code = hn::Min(hn::Sub(bits, bias), hn::Set(u, 0x7f));  // NaN: above every finite code
  const auto sign = hn::And(hn::ShiftRight<24>(hn::BitCast(u, x)), hn::Set(u, 0x80));
  return hn::DemoteTo(hn::Rebind<uint8_t, F>(), hn::BitCast(I(), hn::Or(code, sign)));
}

/// The values of codes. A subnormal is built as (1 + m/8) 2^-6 - 2^-6: no float32 subnormal on the way.
inline V decode(hn::Vec<hn::Rebind<uint8_t, F>> codes) {
  const I i;
  const auto c = hn::PromoteTo(i, codes);
  const auto magnitude = hn::And(c, hn::Set(i, 0x7f));
  const auto bits = hn::Add(hn::ShiftLeft<20>(magnitude), hn::Set(i, 120 << 23));
  const V least = hn::Set(F(), 0x1p-6f), nan = hn::BitCast(F(), hn::Set(i, 0x7fc00000));
  const V subnormal = hn::Sub(hn::BitCast(F(), hn::Add(bits, hn::Set(i, 1 << 23))), least);
  V v = hn::IfThenElse(hn::RebindMask(F(), hn::Lt(magnitude, hn::Set(i, 8))), subnormal, hn::BitCast(F(), bits));
  v = hn::IfThenElse(hn::RebindMask(F(), hn::Eq(magnitude, hn::Set(i, 0x7f))), nan, v);
  return hn::CopySign(v, hn::BitCast(F(), hn::ShiftLeft<24>(c)));
}

void pack_tile(uint8_t* codes, int64_t ld, const Fp8Tile& t) {
  const hn::Rebind<uint8_t, F> d8;
  uint8_t tail[HWY_MAX_BYTES / sizeof(float)];
  for (int64_t i = 0; i < t.rows; ++i) {
    for (int64_t j = 0; j < t.cols; j += lanes()) {
      const int64_t n = t.cols - j;
      uint8_t* out = codes + i * ld + j;
      hn::StoreU(encode(load_n(t.row(i) + j, n)), d8, n >= lanes() ? out : tail);
      if (n < lanes()) std::memcpy(out, tail, static_cast<size_t>(n));
    }
  }
}

void unpack_tile(const Fp8Tile& t, const uint8_t* codes, int64_t ld) {
  const hn::Rebind<uint8_t, F> d8;
  uint8_t tail[HWY_MAX_BYTES / sizeof(float)] = {};
  for (int64_t i = 0; i < t.rows; ++i) {
    for (int64_t j = 0; j < t.cols; j += lanes()) {
      const int64_t n = t.cols - j;
      const uint8_t* in = codes + i * ld + j;
      if (n < lanes()) std::memcpy(tail, in, static_cast<size_t>(n));
      store_n(decode(hn::LoadU(d8, n >= lanes() ? in : tail)), t.row(i) + j, n);
    }
  }
}

void scale_rows(const Fp8Tile& t, const float* scale, int64_t stride) {
  for (int64_t i = 0; i < t.rows; ++i) {
    const V s = hn::Set(F(), scale[i * stride]);
    float* x = t.row(i);
    for (int64_t j = 0; j < t.cols; j += lanes()) store_n(hn::Mul(load_n(x + j, t.cols - j), s), x + j, t.cols - j);
  }
}

void promote(const Fp8Tile& sum, const Fp8Tile& partial, const float* row_scale, const float* column_scale) {
  for (int64_t i = 0; i < sum.rows; ++i) {
    const V s = hn::Set(F(), row_scale[i]);
    float* acc = sum.row(i);
    const float* p = partial.row(i);
    for (int64_t j = 0; j < sum.cols; j += lanes()) {
      const int64_t n = sum.cols - j;
      const V scale = hn::Mul(s, load_n(column_scale + j, n));
      store_n(hn::MulAdd(load_n(p + j, n), scale, load_n(acc + j, n)), acc + j, n);
    }
  }
}

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice::cpu {

HWY_EXPORT(load_tile);
HWY_EXPORT(store_tile);
HWY_EXPORT(quantize_block);
HWY_EXPORT(quantize_rows);
HWY_EXPORT(quantize_columns);
HWY_EXPORT(pack_tile);
HWY_EXPORT(unpack_tile);
HWY_EXPORT(scale_rows);
HWY_EXPORT(promote);

void fp8_load(const Fp8Tile& t, const Tensor& x, int64_t row, int64_t col) {
  HWY_DYNAMIC_DISPATCH(load_tile)(t, x, row, col);
}

void fp8_store(const Tensor& y, int64_t row, int64_t col, const Fp8Tile& t, bool add) {
  HWY_DYNAMIC_DISPATCH(store_tile)(y, row, col, t, add);
}

float fp8_quantize_block(const Fp8Tile& t, bool power_of_two) {
  return HWY_DYNAMIC_DISPATCH(quantize_block)(t, power_of_two);
}

void fp8_quantize_rows(const Fp8Tile& t, float* scale, int64_t stride, bool power_of_two) {
  HWY_DYNAMIC_DISPATCH(quantize_rows)(t, scale, stride, power_of_two);
}

void fp8_quantize_columns(const Fp8Tile& t, float* scale, bool power_of_two) {
  HWY_DYNAMIC_DISPATCH(quantize_columns)(t, scale, power_of_two);
}

void fp8_pack(uint8_t* codes, int64_t ld, const Fp8Tile& t) { HWY_DYNAMIC_DISPATCH(pack_tile)(codes, ld, t); }

void fp8_unpack(const Fp8Tile& t, const uint8_t* codes, int64_t ld) { HWY_DYNAMIC_DISPATCH(unpack_tile)(t, codes, ld); }

void fp8_scale_rows(const Fp8Tile& t, const float* scale, int64_t stride) {
  HWY_DYNAMIC_DISPATCH(scale_rows)(t, scale, stride);
}

void fp8_promote(const Fp8Tile& sum, const Fp8Tile& partial, const float* row_scale, const float* column_scale) {
  HWY_DYNAMIC_DISPATCH(promote)(sum, partial, row_scale, column_scale);
}

}  // namespace sluice::cpu
#endif  // HWY_ONCE
