#include "ops/block_quant.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cpu/block_encode.h"

namespace sluice::cpu {
namespace {

template <class Block>
void encode_row(const float* x, int64_t cols, const float* importance, void* row) {
  constexpr int kSize = kElements<Block>;
  constexpr float kLargest = 0x1p28f;
  static_assert(sizeof(Block) == block_shape(Block::kFormat).bytes);
  Block* block = static_cast<Block*>(row);
  for (int64_t i = 0; i < cols; i += kSize, ++block) {
    bool representable = true;
    for (int k = 0; k < kSize; ++k) representable &= std::fabs(x[i + k]) <= kLargest;
    if (representable) {
      encode(x + i, importance ? importance + i : nullptr, *block);
    } else {
      *block = {};
      block->d = f32_to_f16(std::numeric_limits<float>::quiet_NaN());
    }
  }
}

}  // namespace

void quantize_row(const float* x, Format format, int64_t cols, const float* importance, void* row) {
  switch (format) {
    case Format::fp8_128:
      return;  // excluded by the contract
    case Format::f32:
      std::copy_n(x, cols, static_cast<float*>(row));
      return;
    case Format::f16:
      std::transform(x, x + cols, static_cast<uint16_t*>(row), f32_to_f16);
      return;
    case Format::bf16:
      std::transform(x, x + cols, static_cast<bf16*>(row), [](float v) { return bf16(v); });
      return;
    case Format::q4_0:
      return encode_row<BlockQ4_0>(x, cols, importance, row);
    case Format::q4_1:
      return encode_row<BlockQ4_1>(x, cols, importance, row);
    case Format::q5_0:
      return encode_row<BlockQ5_0>(x, cols, importance, row);
    case Format::q5_1:
      return encode_row<BlockQ5_1>(x, cols, importance, row);
    case Format::q8_0:
      return encode_row<BlockQ8_0>(x, cols, importance, row);
    case Format::q2_k:
      return encode_row<BlockQ2K>(x, cols, importance, row);
    case Format::q3_k:
      return encode_row<BlockQ3K>(x, cols, importance, row);
    case Format::q4_k:
      return encode_row<BlockQ4K>(x, cols, importance, row);
    case Format::q5_k:
      return encode_row<BlockQ5K>(x, cols, importance, row);
    case Format::q6_k:
      return encode_row<BlockQ6K>(x, cols, importance, row);
    case Format::iq4_nl:
      return encode_row<BlockIq4Nl>(x, cols, importance, row);
  }
}

void quantize_blocks(Stream& s, const Matrix& w, const Tensor& x, const float* importance) {
  const int64_t stride = row_bytes(w.format, w.cols), grain = std::max<int64_t>(1, 2048 / std::max<int64_t>(1, w.cols));
  parallel_for(s, w.rows, grain, [&](int64_t row, int64_t end, int) {
    for (; row < end; ++row)
      cpu::quantize_row(static_cast<const float*>(x.at(row)), w.format, w.cols, importance,
                        static_cast<std::byte*>(w.data) + row * stride);
  });
}

}  // namespace sluice::cpu
