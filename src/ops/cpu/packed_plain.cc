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
    for (int g = 0; g < G; ++g)
      p[g] = job.weights + (group + g) * job.group_bytes + head_bytes(kFormat), scale[g] = hn::Zero(F());
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

#if HWY_TARGET != HWY_SCALAR  // which has no vectors of bytes, and no short groups with its one lane

using U8 = hn::Repartition<uint8_t, F>;
using VU8 = hn::Vec<U8>;

/// Eight columns of a short group of bf16.
struct TwoQuads {
  Quad quad[2];
};

HWY_INLINE TwoQuads load_short(const std::byte* p, VU8 upper) {
  const auto bytes_at = [&](int64_t i)
                            HWY_ATTR { return hn::LoadU(U8(), reinterpret_cast<const uint8_t*>(p) + i * 4 * lanes()); };
  const VU8 codes = bytes_at(2);
  const VU8 high[2] = {hn::TableLookupBytes(upper, hn::And(codes, hn::Set(U8(), 15))),
                       hn::TableLookupBytes(upper, hn::ShiftRight<4>(codes))};
  TwoQuads two;
  HWY_UNROLL(2)
  for (int q = 0; q < 2; ++q) {
    const VU8 low = bytes_at(q);
    const auto first = hn::BitCast(U32(), hn::InterleaveLower(U8(), low, high[q])),
               second = hn::BitCast(U32(), hn::InterleaveUpper(U8(), low, high[q]));
    const auto odd = hn::Set(U32(), 0xffff0000u);
    two.quad[q].w[0] = hn::BitCast(F(), hn::ShiftLeft<16>(first));
    two.quad[q].w[1] = hn::BitCast(F(), hn::And(first, odd));
    two.quad[q].w[2] = hn::BitCast(F(), hn::ShiftLeft<16>(second));
    two.quad[q].w[3] = hn::BitCast(F(), hn::And(second, odd));
  }
  return two;
}

/// Groups of bf16, each in its form.
struct Bf16Tile {
  const PackedJob& job;

  const Bf16Head& head(int64_t group) const {
    return *reinterpret_cast<const Bf16Head*>(job.weights + group * job.group_bytes);
  }

  template <int M, int G>
  void run(int64_t row, int64_t group) const {
    bool all_short = true;
    for (int g = 0; g < G; ++g) all_short = all_short && head(group + g).is_short;
    if (all_short) return run_short<M, G>(row, group);
    for (int64_t g = group; g < group + G; ++g) {
      if (head(g).is_short) {
        run_short<M, 1>(row, g);
      } else {
        PlainTile<Format::bf16>{job}.template run<M, 1>(row, g);
      }
    }
  }

  template <int M, int G>
  void run_short(int64_t row, int64_t group) const {
    const int64_t step = short_bytes(kShortCols, lanes()), end = short_bytes(job.cols, lanes());
    const float* x[M];
    const std::byte* p[G];
    int64_t behind[G];  // from an offset behind the end of a group to where the next one is read
    VF acc[G * M];
    VU8 upper[G];
    HWY_UNROLL(8)
    for (int m = 0; m < M; ++m) x[m] = reinterpret_cast<const float*>(job.x + (row + m) * job.x_stride);
    HWY_UNROLL(8)
    for (int i = 0; i < G * M; ++i) acc[i] = hn::Zero(F());
    HWY_UNROLL(2)
    for (int g = 0; g < G; ++g) {
      upper[g] = hn::LoadDup128(U8(), head(group + g).upper);
      const int64_t begin = short_begin(head(group + g).listed);
      p[g] = job.weights + (group + g) * job.group_bytes + begin;
      behind[g] = G * job.group_bytes - end - begin;
    }
    for (int64_t k = 0, offset = 0; k < job.cols; k += kShortCols, offset += step) {
      const int64_t next = offset + kAhead;
      HWY_UNROLL(2)
      for (int g = 0; g < G; ++g) {
        const int64_t ahead = next + (next < end ? 0 : behind[g]);
        for (int64_t i = 0; i < step; i += 64) hwy::Prefetch(p[g] + ahead + i);
        const TwoQuads two = load_short(p[g] + offset, upper[g]);
        HWY_UNROLL(8)
        for (int i = 0; i < kShortCols; ++i) {
          HWY_UNROLL(8)
          for (int m = 0; m < M; ++m)
            acc[g * M + m] = hn::MulAdd(two.quad[i / 4].w[i % 4], hn::Set(F(), x[m][k + i]), acc[g * M + m]);
        }
      }
    }
    HWY_UNROLL(2)
    for (int g = 0; g < G; ++g) {
      const int64_t out = (group + g) * lanes();
      HWY_UNROLL(8)
      for (int m = 0; m < M; ++m)
        put(add_listed(acc[g * M + m], x[m], group + g), job.y + (row + m) * job.ldy + out, job.outs - out, job.add);
    }
  }

  /// The weights that are not among the codes, after all others.
  HWY_INLINE VF add_listed(VF sums, const float* x, int64_t group) const {
    const uint32_t listed = head(group).listed;
    if (listed == 0) return sums;
    const std::byte* list = job.weights + group * job.group_bytes + kHeadBytes;
    const hn::CappedTag<float, 1> one;
    float sum[HWY_MAX_BYTES / sizeof(float)];
    hn::StoreU(sums, F(), sum);
    for (uint32_t i = 0; i < listed; ++i) {
      const ListedWeight& w = reinterpret_cast<const ListedWeight*>(list)[i];
      const auto value = hn::BitCast(one, hn::Set(hn::Rebind<uint32_t, decltype(one)>(), uint32_t{w.bits} << 16));
      sum[w.lane] = hn::GetLane(hn::MulAdd(value, hn::Set(one, x[w.col]), hn::Set(one, sum[w.lane])));
    }
    return hn::LoadU(F(), sum);
  }
};

#else

using Bf16Tile = PlainTile<Format::bf16>;

#endif

void plain_groups(const PackedJob& job) {
  switch (job.format) {
    case Format::f32:
      return for_each_tile(job, PlainTile<Format::f32>{job});
    case Format::bf16:
      return for_each_tile(job, Bf16Tile{job});
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
