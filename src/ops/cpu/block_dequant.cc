#include "ops/block_quant.h"

#include <algorithm>

#include "base/dtype.h"
#include "ops/cpu/block_layout.h"

namespace sluice::cpu {
namespace {

/// out = scale (n - zero).
template <int kCount>
void scale_codes(const uint8_t* n, float scale, int zero, float* out) {
  for (int i = 0; i < kCount; ++i) out[i] = scale * static_cast<float>(n[i] - zero);
}

/// out = scale n - minimum.
template <int kCount>
void scale_codes(const uint8_t* n, float scale, float minimum, float* out) {
  for (int i = 0; i < kCount; ++i) out[i] = scale * static_cast<float>(n[i]) - minimum;
}

void unpack_fifth_bits(const uint8_t (&high)[4], uint8_t (&n)[32]) {
  for (int i = 0; i < 32; ++i) n[i] = static_cast<uint8_t>(n[i] | ((high[i / 8] >> (i % 8)) & 1) << 4);
}

void decode(const BlockQ4_0& b, float* out) {
  uint8_t n[32];
  unpack_planes<16, 4>(b.q, 32, n);
  scale_codes<32>(n, f16_to_f32(b.d), 8, out);
}

void decode(const BlockQ4_1& b, float* out) {
  uint8_t n[32];
  unpack_planes<16, 4>(b.q, 32, n);
  scale_codes<32>(n, f16_to_f32(b.d), -f16_to_f32(b.m), out);
}

void decode(const BlockQ5_0& b, float* out) {
  uint8_t n[32];
  unpack_planes<16, 4>(b.q, 32, n);
  unpack_fifth_bits(b.high, n);
  scale_codes<32>(n, f16_to_f32(b.d), 16, out);
}

void decode(const BlockQ5_1& b, float* out) {
  uint8_t n[32];
  unpack_planes<16, 4>(b.q, 32, n);
  unpack_fifth_bits(b.high, n);
  scale_codes<32>(n, f16_to_f32(b.d), -f16_to_f32(b.m), out);
}

void decode(const BlockQ8_0& b, float* out) {
  const float d = f16_to_f32(b.d);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(b.q[i]);
}

void decode(const BlockIq4Nl& b, float* out) {
  uint8_t n[32];
  unpack_planes<16, 4>(b.q, 32, n);
  const float d = f16_to_f32(b.d);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(kIq4Values[n[i]]);
}

void decode(const BlockQ2K& b, float* out) {
  uint8_t n[256];
  unpack_planes<32, 2>(b.q, 256, n);
  const float d = f16_to_f32(b.d), m = f16_to_f32(b.m);
  for (int j = 0; j < 16; ++j)
    scale_codes<16>(n + 16 * j, d * static_cast<float>(b.scales[j] & 15), m * static_cast<float>(b.scales[j] >> 4),
                    out + 16 * j);
}

void decode(const BlockQ3K& b, float* out) {
  uint8_t n[256], s[16];
  unpack_planes<32, 2>(b.q, 256, n);
  unpack_planes<32, 1, 2>(b.high, 256, n);
  unpack_q3k_scales(b.scales, s);
  const float d = f16_to_f32(b.d);
  for (int j = 0; j < 16; ++j) scale_codes<16>(n + 16 * j, d * static_cast<float>(s[j] - 32), 4, out + 16 * j);
}

/// The values of q4_k and q5_k from their codes.
template <class Block>
void scale_pairs(const Block& b, const uint8_t* n, float* out) {
  const float d = f16_to_f32(b.d), m = f16_to_f32(b.m);
  for (int j = 0; j < 8; ++j) {
    const ScalePair scale = unpack_scale_pair(b.scales, j);
    scale_codes<32>(n + 32 * j, d * static_cast<float>(scale.s), m * static_cast<float>(scale.t), out + 32 * j);
  }
}

void decode(const BlockQ4K& b, float* out) {
  uint8_t n[256];
  unpack_planes<32, 4>(b.q, 256, n);
  scale_pairs(b, n, out);
}

void decode(const BlockQ5K& b, float* out) {
  uint8_t n[256];
  unpack_planes<32, 4>(b.q, 256, n);
  unpack_planes<32, 1, 4>(b.high, 256, n);
  scale_pairs(b, n, out);
}

void decode(const BlockQ6K& b, float* out) {
  uint8_t n[256];
  unpack_planes<64, 4>(b.q, 256, n);
  unpack_planes<32, 2, 4>(b.high, 256, n);
  const float d = f16_to_f32(b.d);
  for (int j = 0; j < 16; ++j) scale_codes<16>(n + 16 * j, d * static_cast<float>(b.scales[j]), 32, out + 16 * j);
}

template <class Block>
void decode_row(const void* row, int64_t cols, float* out) {
  static_assert(sizeof(Block) == block_shape(Block::kFormat).bytes);
  const Block* block = static_cast<const Block*>(row);
  for (int64_t i = 0; i < cols; i += kElements<Block>) decode(*block++, out + i);
}

}  // namespace

void dequantize_row(const void* row, Format format, int64_t cols, float* out) {
  switch (format) {
    case Format::fp8_128:
      return;  // excluded by the contract
    case Format::f32:
      std::copy_n(static_cast<const float*>(row), cols, out);
      return;
    case Format::f16:
      std::transform(static_cast<const uint16_t*>(row), static_cast<const uint16_t*>(row) + cols, out, f16_to_f32);
      return;
    case Format::bf16:
      std::transform(static_cast<const bf16*>(row), static_cast<const bf16*>(row) + cols, out,
                     [](bf16 v) { return static_cast<float>(v); });
      return;
    case Format::q4_0:
      return decode_row<BlockQ4_0>(row, cols, out);
    case Format::q4_1:
      return decode_row<BlockQ4_1>(row, cols, out);
    case Format::q5_0:
      return decode_row<BlockQ5_0>(row, cols, out);
    case Format::q5_1:
      return decode_row<BlockQ5_1>(row, cols, out);
    case Format::q8_0:
      return decode_row<BlockQ8_0>(row, cols, out);
    case Format::q2_k:
      return decode_row<BlockQ2K>(row, cols, out);
    case Format::q3_k:
      return decode_row<BlockQ3K>(row, cols, out);
    case Format::q4_k:
      return decode_row<BlockQ4K>(row, cols, out);
    case Format::q5_k:
      return decode_row<BlockQ5K>(row, cols, out);
    case Format::q6_k:
      return decode_row<BlockQ6K>(row, cols, out);
    case Format::iq4_nl:
      return decode_row<BlockIq4Nl>(row, cols, out);
  }
}

void dequantize_blocks(Stream& s, Tensor y, const Matrix& w) {
  const int64_t stride = row_bytes(w.format, w.cols),
                grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, w.cols));
  parallel_for(s, w.rows, grain, [&](int64_t row, int64_t end, int) {
    for (; row < end; ++row)
      cpu::dequantize_row(static_cast<const std::byte*>(w.data) + row * stride, w.format, w.cols,
                          static_cast<float*>(y.at(row)));
  });
}

}  // namespace sluice::cpu
