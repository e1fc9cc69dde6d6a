// What the Highway kernels share: float32 vectors loaded from and stored to f32 and bf16 memory, tails included.
// Included once per target (see Highway's foreach_target.h).
#if defined(SLUICE_OPS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SLUICE_OPS_CPU_SIMD_INL_H_
#undef SLUICE_OPS_CPU_SIMD_INL_H_
#else
#define SLUICE_OPS_CPU_SIMD_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "base/dtype.h"
#include "hwy/highway.h"

#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F = hn::ScalableTag<float>;
using V = hn::Vec<F>;

inline int64_t lanes() { return static_cast<int64_t>(hn::Lanes(F())); }

inline V load(const float* p) { return hn::LoadU(F(), p); }
inline V load(const bf16* p) {
  const hn::Rebind<uint16_t, F> d16;
  const hn::RebindToUnsigned<F> d32;
  return hn::BitCast(F(), hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)))));
}

inline void store(V v, float* p) { hn::StoreU(v, F(), p); }
/// Rounds to nearest even; NaN stays NaN.
inline void store(V v, bf16* p) {
  const hn::Rebind<uint16_t, F> d16;
  const hn::RebindToUnsigned<F> d32;
  const hn::RebindToSigned<F> s32;
  const auto u = hn::BitCast(d32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(d32, 1));
  const auto rounded = hn::Add(u, hn::Add(odd, hn::Set(d32, 0x7fff)));
  const auto quiet = hn::Or(u, hn::Set(d32, 0x400000));
  const auto bits = hn::BitCast(d32, hn::IfThenElse(hn::IsNaN(v), hn::BitCast(F(), quiet), hn::BitCast(F(), rounded)));
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(s32, hn::ShiftRight<16>(bits))), d16, reinterpret_cast<uint16_t*>(p));
}

/// The first n (1 <= n) elements at p; lanes from n on are zero.
template <class T>
inline V load_n(const T* p, int64_t n) {
  if (n >= lanes()) return load(p);
  T buffer[HWY_MAX_BYTES / sizeof(float)] = {};
  std::memcpy(static_cast<void*>(buffer), p, static_cast<size_t>(n) * sizeof(T));
  return load(buffer);
}
template <class T>
inline void store_n(V v, T* p, int64_t n) {
  if (n >= lanes()) return store(v, p);
  T buffer[HWY_MAX_BYTES / sizeof(float)];
  store(v, buffer);
  std::memcpy(static_cast<void*>(p), buffer, static_cast<size_t>(n) * sizeof(T));
}

/// exp for every float32: Highway's is garbage above 104 and gives 0 for NaN, which must not be hidden.
inline V exp(V x) {
  const V y = hn::Exp(F(), hn::Min(x, hn::Set(F(), 104.0f)));
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}

inline float sum(V v) { return hn::GetLane(hn::SumOfLanes(F(), v)); }

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per target
