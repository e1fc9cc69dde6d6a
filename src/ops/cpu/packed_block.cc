#include "ops/cpu/packed_block.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "ops/cpu/packed_layout.h"

// This file wants the target with byte products, and vectors in arrays, which SVE does not allow.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#define HWY_WANT_AVX3_DL 1
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/packed_block.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "ops/cpu/dot_i8-inl.h"
#include "ops/cpu/packed_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {

/// Half-precision factors of the group's rows.
inline VF load_factors(const std::byte* p) {
  const hn::Rebind<hwy::float16_t, F> d16;
  return hn::PromoteTo(F(), hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
}
/// Byte scales of the group's rows.
template <class T>
inline VF load_scales(const std::byte* p) {
  const hn::Rebind<T, F> d8;
  return hn::ConvertTo(F(), hn::PromoteTo(I32(), hn::LoadU(d8, reinterpret_cast<const T*>(p))));
}

/// M rows of x. Pointers, not a stride: each product then takes its activations from memory with one instruction.
template <int M>
struct Inputs {
  RoundedRow layout;
  const std::byte* row[M];
  int64_t ahead = kAhead;  // how far the weights beside them are read ahead
  Inputs(const PackedJob& job, int64_t first) : layout(job.cols, kHasBytes) {
    HWY_UNROLL(8)
    for (int m = 0; m < M; ++m) row[m] = job.x + (first + m) * job.x_stride;
  }
  const Code* codes(int m, int64_t column) const { return reinterpret_cast<const Code*>(row[m]) + column; }
  float scale(int m, int64_t block) const { return at<float>(m, layout.scale(), block); }
  float scaled_sum(int m, int64_t block) const { return at<float>(m, layout.scaled_sum(), block); }
  int32_t bias(int m, int64_t block) const { return at<int32_t>(m, layout.bias(), block); }
  int32_t half_sum(int m, int64_t half) const { return at<int32_t>(m, layout.half_sums(), half); }

 private:
  template <class T>
  T at(int m, int64_t part, int64_t i) const {
    T v;
    std::memcpy(&v, row[m] + part + 4 * i, 4);
    return v;
  }
};

/// sum[m] += products of `kQuads` vectors of codes with the activations from `column` on.
template <int M, int kQuads>
HWY_INLINE void dot_quads(VI* sum, const std::byte* codes, const Inputs<M>& x, int64_t column) {
  HWY_UNROLL(8)
  for (int q = 0; q < kQuads; ++q) {
    hwy::Prefetch(codes + q * 4 * lanes() + x.ahead);
    const Weights w = spread(load_codes(codes + q * 4 * lanes()));
    HWY_UNROLL(8)
    for (int m = 0; m < M; ++m) sum[m] = dot(sum[m], w, x.codes(m, column + 4 * q));
  }
}

/// The same for a sub-block of `kQuads` quads as nibbles, with kBits high bits each.
template <int M, int kQuads, int kBits, class Decode>
HWY_INLINE void dot_nibbles(VI* sum, const std::byte* p, const Inputs<M>& x, int64_t column, const Decode& decode) {
  constexpr uint32_t kMask = kBits == 2 ? 0x03030303u : 0x01010101u;
  constexpr int kHalf = kQuads / 2;
  VB first = load_codes(p), second = first;  // high bits of the quads in turn
  if (kBits) second = shift_high<kBits * kHalf>(first), p += 4 * lanes();
  HWY_UNROLL(4)
  for (int q = 0; q < kHalf; ++q) {
    hwy::Prefetch(p + q * 4 * lanes() + x.ahead);
    const VB both = load_codes(p + q * 4 * lanes());
    VB low = low_nibbles(both), high = high_nibbles(both);
    if (kBits) {
      low = add_high(low, first, kMask), high = add_high(high, second, kMask);
      first = shift_high<kBits>(first), second = shift_high<kBits>(second);
    }
    const Weights a = spread(decode(low)), b = spread(decode(high));
    HWY_UNROLL(8)
    for (int m = 0; m < M; ++m) {
      sum[m] = dot(sum[m], a, x.codes(m, column + 4 * q));
      sum[m] = dot(sum[m], b, x.codes(m, column + 4 * (q + kHalf)));
    }
  }
}
struct AsItIs {
  HWY_INLINE VB operator()(VB v) const { return v; }
};

/// acc[m] += factor scale_m sum_m [+ minimum scaled_sum_m] over one block of 32.
template <int M, bool kMinimum>
HWY_INLINE void finish_32(VF* acc, const VI* sum, const std::byte* p, const Inputs<M>& x, int64_t b) {
  const VF scale = load_factors(p);
  HWY_UNROLL(8)
  for (int m = 0; m < M; ++m) {
    acc[m] = hn::MulAdd(hn::ConvertTo(F(), sum[m]), hn::Mul(scale, hn::Set(F(), x.scale(m, b))), acc[m]);
    if (kMinimum) acc[m] = hn::MulAdd(load_factors(p + 2 * lanes()), hn::Set(F(), x.scaled_sum(m, b)), acc[m]);
  }
}

/// Block b of q8_0 at p.
template <int M>
HWY_INLINE void add_byte_32(VF* acc, const std::byte* p, const Inputs<M>& x, int64_t b) {
  VI sum[M];
  HWY_UNROLL(8)
  for (int m = 0; m < M; ++m) sum[m] = kHasBytes ? hn::Set(I32(), x.bias(m, b)) : hn::Zero(I32());
  dot_quads<M, 8>(sum, p + 2 * lanes(), x, 32 * b);
  finish_32<M, false>(acc, sum, p, x, b);
}

/// Block b of a format of PackedKind::half_32 at p.
template <int M, Format kFormat>
HWY_INLINE void add_half_32(VF* acc, const std::byte* p, const Inputs<M>& x, int64_t b) {
  constexpr bool kTable = kFormat == Format::iq4_nl, kMinimum = has_minimum(kFormat);
  constexpr bool kZero = kMinimum || (kTable && !kHasBytes);
  VI sum[M];
  HWY_UNROLL(8)
  for (int m = 0; m < M; ++m)
    sum[m] = kZero ? hn::Zero(I32()) : hn::Set(I32(), x.bias(m, b) >> (kTable ? 0 : 7 - zero_shift(kFormat)));
  const std::byte* codes = p + packed_block(kFormat).head() * lanes();
  if constexpr (kTable) {
    dot_nibbles<M, 8, 0>(sum, codes, x, 32 * b, [](VB v) HWY_ATTR {
      HWY_ALIGN int8_t table[16];
      for (int i = 0; i < 16; ++i) table[i] = static_cast<int8_t>(kIq4Values[i] ^ (kHasBytes ? -128 : 0));
      return look_up(table, v);
    });
  } else {
    dot_nibbles<M, 8, high_bits(kFormat)>(sum, codes, x, 32 * b, AsItIs());
  }
  finish_32<M, kMinimum>(acc, sum, p, x, b);
}

/// Sub-block i of 32 columns of block s of q4_k or q5_k, which begins at p.
template <int M, Format kFormat>
HWY_INLINE void add_nibble_32(VF* acc, const std::byte* p, VF d, VF d_min, const Inputs<M>& x, int64_t s, int64_t i) {
  constexpr PackedBlock kLayout = packed_block(kFormat);
  const int64_t L = lanes(), b = 8 * s + i;
  VI sum[M];
  HWY_UNROLL(8)
  for (int m = 0; m < M; ++m) sum[m] = hn::Zero(I32());
  dot_nibbles<M, 8, high_bits(kFormat)>(sum, p + (kLayout.head() + i * kLayout.sub_block) * L, x, 32 * b, AsItIs());
  const VF scale = hn::Mul(d, load_scales<uint8_t>(p + (4 + i) * L));
  const VF minimum = hn::Mul(d_min, load_scales<uint8_t>(p + (12 + i) * L));
  HWY_UNROLL(8)
  for (int m = 0; m < M; ++m) {
    acc[m] = hn::MulAdd(hn::ConvertTo(F(), sum[m]), hn::Mul(scale, hn::Set(F(), x.scale(m, b))), acc[m]);
    acc[m] = hn::NegMulAdd(minimum, hn::Set(F(), x.scaled_sum(m, b)), acc[m]);
  }
}

/// Sub-block i of 16 columns of block s of q2_k, q3_k or q6_k, which begins at p.
template <int M, Format kFormat>
HWY_INLINE void add_16(VF* acc, const std::byte* p, VF d, VF d_min, const Inputs<M>& x, int64_t s, int64_t i) {
  constexpr PackedBlock kLayout = packed_block(kFormat);
  constexpr int kShift = zero_shift(kFormat);
  using Scale = std::conditional_t<kShift != 0, int8_t, uint8_t>;
  const int64_t L = lanes(), half = 16 * s + i;
  VI sum[M];
  HWY_UNROLL(8)
  for (int m = 0; m < M; ++m) sum[m] = hn::Set(I32(), kShift ? -(x.half_sum(m, half) << kShift) : 0);
  const std::byte* codes = p + (kLayout.head() + i * kLayout.sub_block) * L;
  if constexpr (packed_kind(kFormat) == PackedKind::nibble_16)
    dot_nibbles<M, 4, high_bits(kFormat)>(sum, codes, x, 16 * half, AsItIs());
  else
    dot_quads<M, 4>(sum, codes, x, 16 * half);
  const VF scale = hn::Mul(d, load_scales<Scale>(p + (kLayout.factors + i) * L));
  HWY_UNROLL(8)
  for (int m = 0; m < M; ++m) {
    const float dx = x.scale(m, half / 2);
    acc[m] = hn::MulAdd(hn::ConvertTo(F(), sum[m]), hn::Mul(scale, hn::Set(F(), dx)), acc[m]);
    if constexpr (has_minimum(kFormat)) {
      const VF minimum = hn::Mul(d_min, load_scales<uint8_t>(p + (kLayout.factors + kLayout.scales + i) * L));
      acc[m] = hn::NegMulAdd(minimum, hn::Set(F(), dx * static_cast<float>(x.half_sum(m, half))), acc[m]);
    }
  }
}

template <Format kFormat>
struct BlockTile {
  static constexpr PackedBlock kLayout = packed_block(kFormat);
  const PackedJob& job;

  template <int M, int G>
  void run(int64_t row, int64_t group) const {
    Inputs<M> x(job, row);
    const std::byte* p[G];
    VF acc[G * M];
    HWY_UNROLL(8)
    for (int i = 0; i < G * M; ++i) acc[i] = hn::Zero(F());
    HWY_UNROLL(2)
    for (int g = 0; g < G; ++g) p[g] = job.weights + (group + g) * job.group_bytes;
    const int64_t block_bytes = kLayout.row_bytes() * lanes(), blocks = job.cols / kLayout.columns;
    for (int64_t b = 0; b < blocks; ++b) {
      x.ahead = ahead_of<G>(b * block_bytes, job.group_bytes);
      HWY_UNROLL(2)
      for (int g = 0; g < G; ++g) {
        for (int64_t i = 0; i < kLayout.head() * lanes(); i += 64) hwy::Prefetch(p[g] + b * block_bytes + x.ahead + i);
        add_block<M>(acc + g * M, p[g] + b * block_bytes, x, b);
      }
    }
    HWY_UNROLL(2)
    for (int g = 0; g < G; ++g) {
      const int64_t out = (group + g) * lanes();
      HWY_UNROLL(8)
      for (int m = 0; m < M; ++m) put(acc[g * M + m], job.y + (row + m) * job.ldy + out, job.outs - out, job.add);
    }
  }

 private:
  template <int M>
  HWY_INLINE void add_block(VF* acc, const std::byte* p, const Inputs<M>& x, int64_t b) const {
    constexpr PackedKind kKind = packed_kind(kFormat);
    if constexpr (kKind == PackedKind::byte_32) {
      add_byte_32<M>(acc, p, x, b);
    } else if constexpr (kKind == PackedKind::half_32) {
      add_half_32<M, kFormat>(acc, p, x, b);
    } else {
      const VF d = load_factors(p), d_min = kLayout.factors == 4 ? load_factors(p + 2 * lanes()) : d;
      for (int64_t i = 0; i < kLayout.sub_blocks; ++i)
        if constexpr (kKind == PackedKind::nibble_32)
          add_nibble_32<M, kFormat>(acc, p, d, d_min, x, b, i);
        else
          add_16<M, kFormat>(acc, p, d, d_min, x, b, i);
    }
  }
};

/// Runs the tiles of the job's format, which is one of kFormats.
template <Format... kFormats>
void run_format(const PackedJob& job) {
  ((job.format == kFormats ? for_each_tile(job, BlockTile<kFormats>{job}) : void()), ...);
}

void block_groups(const PackedJob& job) {
  run_format<Format::q8_0, Format::q4_0, Format::q4_1, Format::q5_0, Format::q5_1, Format::iq4_nl, Format::q2_k,
             Format::q3_k, Format::q4_k, Format::q5_k, Format::q6_k>(job);
}

/// Four activations as the products take them: in order, or 0, 2, 1, 3.
HWY_INLINE void store_codes(VI codes, Code* out) {
#if HWY_TARGET == HWY_SCALAR
  *out = static_cast<Code>(hn::GetLane(codes));
#else
  if constexpr (!kHasBytes) {
    HWY_ALIGN int32_t order[HWY_MAX_BYTES / sizeof(int32_t)];
    for (int32_t i = 0; i < static_cast<int32_t>(lanes()); ++i) order[i] = (i & ~3) + (i & 1) * 2 + (i >> 1 & 1);
    codes = hn::TableLookupLanes(codes, hn::SetTableIndices(I32(), order));
  }
  const hn::Rebind<Code, I32> d;
  hn::StoreU(hn::DemoteTo(d, codes), d, out);
#endif
}

void round_one(const float* x, int64_t cols, std::byte* out) {
  const RoundedRow layout(cols, kHasBytes);
  Code* codes = reinterpret_cast<Code*>(out);
  for (int64_t b = 0; b < layout.blocks; ++b) {
    const float* in = x + 32 * b;
    VF most = hn::Zero(F()), check = hn::Zero(F());  // check becomes NaN by NaN and infinity, which are not hidden
    for (int64_t i = 0; i < 32; i += lanes()) {
      const VF v = hn::LoadU(F(), in + i);
      most = hn::Max(most, hn::Abs(v));
      check = hn::MulAdd(v, hn::Zero(F()), check);
    }
    const float largest = hn::GetLane(hn::MaxOfLanes(F(), most));
    const float scale = largest / 127 + hn::GetLane(hn::SumOfLanes(F(), check));
    // Blocks too small for their inverse count as zeros; others have codes of at most 127, whatever is not a number.
    const VF inverse = hn::Set(F(), largest > 1e-30f && largest <= 3.4e38f ? 127 / largest : 0);
    int32_t sums[2] = {0, 0};
    for (int64_t i = 0; i < 32; i += lanes()) {
      const VI nearest = hn::NearestInt(hn::Mul(hn::LoadU(F(), in + i), inverse));
      const VI q = hn::Max(hn::Set(I32(), -127), hn::Min(nearest, hn::Set(I32(), 127)));
      sums[i / 16] += hn::GetLane(hn::SumOfLanes(I32(), q));
      store_codes(q, codes + 32 * b + i);
    }
    const float scaled = scale * static_cast<float>(sums[0] + sums[1]);
    const int32_t bias = -128 * (sums[0] + sums[1]);
    std::memcpy(out + layout.scale() + 4 * b, &scale, 4);
    std::memcpy(out + layout.scaled_sum() + 4 * b, &scaled, 4);
    std::memcpy(out + layout.bias() + 4 * b, &bias, 4);
    std::memcpy(out + layout.half_sums() + 8 * b, sums, 8);
  }
}

PackedTarget target() { return {lanes(), kHasBytes}; }

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice::cpu {

HWY_EXPORT(block_groups);
HWY_EXPORT(round_one);
HWY_EXPORT(target);

void packed_block_groups(const PackedJob& job) { HWY_DYNAMIC_DISPATCH(block_groups)(job); }
void round_row(const float* x, int64_t cols, std::byte* out) { HWY_DYNAMIC_DISPATCH(round_one)(x, cols, out); }
PackedTarget packed_target() { return HWY_DYNAMIC_DISPATCH(target)(); }

}  // namespace sluice::cpu
#endif
