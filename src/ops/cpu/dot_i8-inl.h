// Four-way products of 8-bit codes on the target being compiled: lane r of a sum gains w[4r] x[0] + ... + w[4r+3] x[3].
// Sums are exact, so every target gives the same bits. Included once per target by the kernels.
#if defined(SLUICE_OPS_CPU_DOT_I8_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SLUICE_OPS_CPU_DOT_I8_INL_H_
#undef SLUICE_OPS_CPU_DOT_I8_INL_H_
#else
#define SLUICE_OPS_CPU_DOT_I8_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using I32 = hn::ScalableTag<int32_t>;
using VI = hn::Vec<I32>;

#if HWY_TARGET == HWY_SCALAR

constexpr bool kHasBytes = false;
using Code = int16_t;  // an activation
using Weights = uint32_t;
using VB = uint32_t;
inline VB load_codes(const std::byte* p) {
  VB v;
  __builtin_memcpy(&v, p, 4);
  return v;
}
inline VB low_nibbles(VB v) { return v & 0x0f0f0f0fu; }
inline VB high_nibbles(VB v) { return v >> 4 & 0x0f0f0f0fu; }
/// nibbles + 16 times the bits of `high` under `mask`.
inline VB add_high(VB nibbles, VB high, uint32_t mask) { return nibbles | (high & mask) << 4; }
template <int kBits>
inline VB shift_high(VB high) {
  return high >> kBits;
}
inline VB look_up(const int8_t* table, VB nibbles) {
  VB v = 0;
  for (int i = 0; i < 4; ++i) v |= uint32_t{static_cast<uint8_t>(table[nibbles >> (8 * i) & 15])} << (8 * i);
  return v;
}
inline Weights spread(VB w) { return w; }
inline VI dot(VI sum, Weights w, const Code* x) {
  const auto code = [w](int i) { return static_cast<int32_t>(static_cast<int8_t>(w >> (8 * i) & 255)); };
  return hn::Add(sum, hn::Set(I32(), code(0) * x[0] + code(1) * x[1] + code(2) * x[2] + code(3) * x[3]));
}

#else

using U8 = hn::Repartition<uint8_t, I32>;
using VB = hn::Vec<U8>;
inline VB load_codes(const std::byte* p) { return hn::LoadU(U8(), reinterpret_cast<const uint8_t*>(p)); }
inline VB low_nibbles(VB v) { return hn::And(v, hn::Set(U8(), 15)); }
inline VB high_nibbles(VB v) {
  const hn::Repartition<uint16_t, U8> d16;
  return low_nibbles(hn::BitCast(U8(), hn::ShiftRight<4>(hn::BitCast(d16, v))));
}

/// nibbles + 16 times the bits of `high` under `mask`.
inline VB add_high(VB nibbles, VB high, uint32_t mask) {
  const auto bits = hn::And(hn::BitCast(I32(), high), hn::Set(I32(), static_cast<int32_t>(mask)));
  return hn::Or(nibbles, hn::BitCast(U8(), hn::ShiftLeft<4>(bits)));
}
template <int kBits>
inline VB shift_high(VB high) {
  const hn::RebindToUnsigned<I32> d32;
  return hn::BitCast(U8(), hn::ShiftRight<kBits>(hn::BitCast(d32, high)));
}
/// The 16 bytes of `table` at the nibbles.
inline VB look_up(const int8_t* table, VB nibbles) {
  return hn::TableLookupBytes(hn::LoadDup128(U8(), reinterpret_cast<const uint8_t*>(table)), nibbles);
}

#if HWY_TARGET == HWY_AVX3_DL

constexpr bool kHasBytes = true;
using Code = int8_t;  // an activation
using Weights = VB;   // codes of four columns of each row, as unsigned bytes
inline Weights spread(VB w) { return w; }

// By name, not by intrinsic: Debian 12's Highway does not enable AVX-512 VNNI for this target, which has it.
inline VI dot(VI sum, Weights w, const Code* x) {
  struct Quad {
    Code code[4];
  };
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum.raw) : "v"(w.raw), "m"(*reinterpret_cast<const Quad*>(x)));
  return sum;
}

#else

constexpr bool kHasBytes = false;
using Code = int16_t;  // activations 0, 2, 1, 3 of four
using I16 = hn::Repartition<int16_t, I32>;
struct Weights {
  hn::Vec<I16> even, odd;  // codes of columns 0, 2 and of 1, 3
};
inline Weights spread(VB w) {
  const auto pairs = hn::BitCast(I16(), w);
  return {hn::ShiftRight<8>(hn::ShiftLeft<8>(pairs)), hn::ShiftRight<8>(pairs)};
}

inline hn::Vec<I16> pair(const Code* x) {
  int32_t both;
  __builtin_memcpy(&both, x, 4);
  return hn::BitCast(I16(), hn::Set(I32(), both));
}

/// sum + a[2r] b[2r] + a[2r+1] b[2r+1] in lane r.
inline VI add_pairs(VI sum, hn::Vec<I16> a, hn::Vec<I16> b) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128
  VI unused = hn::Zero(I32());
  return hn::ReorderWidenMulAccumulate(I32(), a, b, sum, unused);
#else
  const auto a32 = hn::BitCast(I32(), a), b32 = hn::BitCast(I32(), b);
  const auto low = [](VI v) { return hn::ShiftRight<16>(hn::ShiftLeft<16>(v)); };
  return hn::Add(sum, hn::Add(hn::Mul(low(a32), low(b32)), hn::Mul(hn::ShiftRight<16>(a32), hn::ShiftRight<16>(b32))));
#endif
}

inline VI dot(VI sum, Weights w, const Code* x) {
  return add_pairs(add_pairs(sum, w.even, pair(x)), w.odd, pair(x + 2));
}

#endif
#endif

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
