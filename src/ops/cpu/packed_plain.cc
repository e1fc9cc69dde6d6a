#include "ops/cpu/packed_block.h"
#include "ops/cpu/packed_layout.h"

// Vectors in arrays, which SVE does not allow.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#define HWY_WANT_AVX3_DL 1
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/packed_plain.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "ops/cpu/packed_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {

using U32 = hn::ScalableTag<uint32_t>;

inline hn::Vec<U32> load_words(const std::byte* p) { return hn::LoadU(U32(), reinterpret_cast<const uint32_t*>(p)); }

/// The weights of a quad of columns, one vector each.
struct Quad {
  VF w[kQuad];
};

template <Format kFormat>
HWY_INLINE Quad load_quad(const std::byte* p, VF scale) {
  Quad quad;
  if constexpr (kFormat == Format::f32) {
    (void)scale;
    HWY_UNROLL(4)
    for (int i = 0; i < kQuad; ++i) quad.w[i] = hn::LoadU(F(), reinterpret_cast<const float*>(p) + i * lanes());
  } else if constexpr (kFormat == Format::bf16) {
    (void)scale;
    HWY_UNROLL(2)
    for (int i = 0; i < 2; ++i) {
      const auto pair = load_words(p + i * 4 * lanes());
      quad.w[2 * i] = hn::BitCast(F(), hn::ShiftLeft<16>(pair));
      quad.w[2 * i + 1] = hn::BitCast(F(), hn::And(pair, hn::Set(U32(), 0xffff0000u)));
    }
  } else {
    const auto codes = load_words(p), magnitude = hn::Set(U32(), 0x7fu), sign = hn::Set(U32(), 0x80000000u);
    const auto eight = hn::Set(U32(), 8u), bias = hn::Set(U32(), 120u << 23);
    // E4M3: exponent and mantissa move into place. Codes below 8 get the least exponent's implied one, which is taken
    // off again: float32 subnormals, which are slow, never appear.
    const auto unpack = [&](hn::Vec<U32> shifted) HWY_ATTR {
      const auto low = hn::And(shifted, magnitude);
      const auto is_small = hn::Lt(low, eight);
      const auto whole = hn::Or(low, hn::IfThenElseZero(is_small, eight));
      auto value = hn::BitCast(F(), hn::Add(hn::ShiftLeft<20>(whole), bias));
      value = hn::Sub(value, hn::IfThenElseZero(hn::RebindMask(F(), is_small), hn::Set(F(), 0x1p-6f)));
      value = hn::Or(value, hn::BitCast(F(), hn::And(hn::ShiftLeft<24>(shifted), sign)));
      return hn::IfThenElse(hn::RebindMask(F(), hn::Eq(low, magnitude)), hn::NaN(F()), hn::Mul(value, scale));
    };
    quad.w[0] = unpack(codes), quad.w[1] = unpack(hn::ShiftRight<8>(codes));
    quad.w[2] = unpack(hn::ShiftRight<16>(codes)), quad.w[3] = unpack(hn::ShiftRight<24>(codes));
  }
  return quad;
}

template <Format kFormat>
struct PlainTile {
  const PackedJob& job;

  template <int M, int G>
  void run(int64_t row, int64_t group) const {
    const int64_t quad_bytes = kQuad * lanes() * block_shape(kFormat).bytes, cols = padded_cols(job.cols);
    const int64_t blocks = (job.cols + kScaleCols - 1) / kScaleCols;
    const float* x[M];
    const std::byte* p[G];
    VF acc[G * M], scale[G];
    HWY_UNROLL(8)
    for (int m = 0; m < M; ++m) x[m] = reinterpret_cast<const float*>(job.x + (row + m) * job.x_stride);
    HWY_UNROLL(8)
    for (int i = 0; i < G * M; ++i) acc[i] = hn::Zero(F());
    HWY_UNROLL(2)
    for (int g = 0; g < G; ++g) p[g] = job.weights + (group + g) * job.group_bytes, scale[g] = hn::Zero(F());
    for (int64_t k = 0, offset = 0; k < cols; k += kQuad, offset += quad_bytes) {
      const int64_t ahead = offset + ahead_of<G>(offset, job.group_bytes);
      HWY_UNROLL(2)
      for (int g = 0; g < G; ++g) {
        if (kFormat == Format::fp8_128 && k % kScaleCols == 0)
          scale[g] = hn::Set(F(), job.scales[(group + g) * blocks + k / kScaleCols]);
        for (int64_t i = 0; i < quad_bytes; i += 64) hwy::Prefetch(p[g] + ahead + i);
        const Quad quad = load_quad<kFormat>(p[g] + offset, scale[g]);
        HWY_UNROLL(4)
        for (int i = 0; i < kQuad; ++i) {
          HWY_UNROLL(8)
          for (int m = 0; m < M; ++m) acc[g * M + m] = hn::MulAdd(quad.w[i], hn::Set(F(), x[m][k + i]), acc[g * M + m]);
        }
      }
    }
    HWY_UNROLL(2)
    for (int g = 0; g < G; ++g) {
      const int64_t out = (group + g) * lanes();
      HWY_UNROLL(8)
      for (int m = 0; m < M; ++m) put(acc[g * M + m], job.y + (row + m) * job.ldy + out, job.outs - out, job.add);
    }
  }
};

void plain_groups(const PackedJob& job) {
  switch (job.format) {
    case Format::f32:
      return for_each_tile(job, PlainTile<Format::f32>{job});
    case Format::bf16:
      return for_each_tile(job, PlainTile<Format::bf16>{job});
    default:
      return for_each_tile(job, PlainTile<Format::fp8_128>{job});
  }
}

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice::cpu {

HWY_EXPORT(plain_groups);

void packed_plain_groups(const PackedJob& job) { HWY_DYNAMIC_DISPATCH(plain_groups)(job); }

}  // namespace sluice::cpu
#endif
