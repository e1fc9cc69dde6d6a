// Rows of f32, bf16 and fp8_128 -> groups of interleaved rows.
#include <algorithm>
#include <array>
#include <cstring>

#include "ops/cpu/packed_layout.h"
#include "ops/cpu/packed_pack.h"

namespace sluice::cpu {
namespace {

/// One row into its lane of a group of zeros.
template <class T>
void put_plain(std::byte* group, const T* row, int64_t cols, int64_t lanes, int64_t lane, int64_t neighbours) {
  T* out = reinterpret_cast<T*>(group);
  for (int64_t k = 0; k < cols; ++k) out[(k / neighbours * lanes + lane) * neighbours + k % neighbours] = row[k];
}

/// Rows of a group of bf16.
struct Bf16Rows {
  const uint16_t* data;
  int64_t rows, cols, lanes;
  const uint16_t* row(int64_t i) const { return data + i * cols; }
};

constexpr uint8_t kNoCode = 255;

/// Upper bytes with codes of their own: which, and what codes.
struct UpperBytes {
  uint8_t bytes[16];
  uint8_t code[256];
  int64_t missing;  // weights that have none of them
};

/// 0 and the seven neighbours that most weights have, with both signs.
UpperBytes upper_bytes(const Bf16Rows& in) {
  constexpr int kNeighbours = 7;
  std::array<int32_t, 256> signed_count{};
  for (int64_t i = 0; i < in.rows * in.cols; ++i) ++signed_count[in.data[i] >> 8];
  const auto count = [&](int byte) {
    return signed_count[static_cast<size_t>(byte)] + signed_count[static_cast<size_t>(byte | 128)];
  };
  int64_t covered = 0, most = 0;
  int first = 1;
  for (int end = 1; end < 128; ++end) {
    covered += count(end) - (end > kNeighbours ? count(end - kNeighbours) : 0);
    if (covered > most) most = covered, first = std::max(1, end - kNeighbours + 1);
  }
  UpperBytes upper;
  std::fill(std::begin(upper.code), std::end(upper.code), kNoCode);
  for (int i = 0; i < 16; ++i) {
    const int byte = (i % 8 == 0 ? 0 : std::min(127, first + i % 8 - 1)) | (i / 8) << 7;
    upper.bytes[i] = static_cast<uint8_t>(byte);
    upper.code[byte] = static_cast<uint8_t>(i);
  }
  upper.missing = in.rows * in.cols - count(0) - most;
  return upper;
}

/// Where the bytes of columns 0 and 1 of a lane are in a quad's; those of 2 and 3 are 8 further.
int64_t quad_place(int64_t lane) { return lane / 4 * 16 + lane % 4 * 2; }

void put_short(std::byte* group, const Bf16Rows& in, const UpperBytes& upper) {
  Bf16Head head{1, 0, {}};
  std::copy_n(upper.bytes, 16, head.upper);
  std::byte* const weights = group + short_begin(upper.missing);
  ListedWeight* const list = reinterpret_cast<ListedWeight*>(group + kHeadBytes);
  for (int64_t lane = 0; lane < in.rows; ++lane) {
    const uint16_t* row = in.row(lane);
    for (int64_t k = 0; k < in.cols; k += kShortCols) {
      uint8_t low[kShortCols], code[kShortCols];
      for (int i = 0; i < kShortCols; ++i) {
        const uint16_t bits = row[k + i];
        const bool has_code = upper.code[bits >> 8] != kNoCode;
        low[i] = has_code ? static_cast<uint8_t>(bits) : uint8_t{0};
        code[i] = has_code ? upper.code[bits >> 8] : uint8_t{0};
        if (!has_code) list[head.listed++] = {static_cast<uint32_t>(k + i), static_cast<uint16_t>(lane), bits};
      }
      std::byte* out = weights + short_bytes(k, in.lanes) + quad_place(lane);
      for (int half = 0; half < 2; ++half) {
        const int c = 2 * half;
        const uint8_t codes[2] = {static_cast<uint8_t>(code[c] | code[c + 4] << 4),
                                  static_cast<uint8_t>(code[c + 1] | code[c + 5] << 4)};
        std::memcpy(out + 8 * half, low + c, 2);
        std::memcpy(out + 4 * in.lanes + 8 * half, low + c + 4, 2);
        std::memcpy(out + 8 * in.lanes + 8 * half, codes, 2);
      }
    }
  }
  std::memcpy(group, &head, sizeof(head));
}

/// Into a group of zeros.
void put_bf16(std::byte* group, const Bf16Rows& in) {
  constexpr int64_t kMostListed = 64;  // one in so many: more would cost more time than the bytes save
  if (in.cols % kShortCols == 0 && in.lanes % 4 == 0) {
    const UpperBytes upper = upper_bytes(in);
    if (upper.missing * kMostListed <= in.cols * in.lanes) return put_short(group, in, upper);
  }
  for (int64_t lane = 0; lane < in.rows; ++lane)
    put_plain(group + kHeadBytes, in.row(lane), in.cols, in.lanes, lane, 2);
}

}  // namespace

void pack_plain(Stream& s, const PackedMatrix& out, const Matrix& w) {
  const int64_t lanes = packed_target().lanes;
  const int64_t groups = (w.rows + lanes - 1) / lanes, bytes = plain_group_bytes(w.format, w.cols, lanes);
  const int64_t row_size = w.cols * block_shape(w.format).bytes, blocks = (w.cols + kScaleCols - 1) / kScaleCols;
  float* scales = reinterpret_cast<float*>(out.data + groups * bytes);
  parallel_for(s, groups, std::max<int64_t>(1, 65536 / bytes), [&](int64_t g, int64_t end, int) {
    for (; g < end; ++g) {
      std::byte* group = out.data + g * bytes;
      std::memset(group, 0, static_cast<size_t>(bytes));
      const std::byte* row = static_cast<const std::byte*>(w.data) + g * lanes * row_size;
      const int64_t rows = std::min(lanes, w.rows - g * lanes);
      if (w.format == Format::bf16) put_bf16(group, {reinterpret_cast<const uint16_t*>(row), rows, w.cols, lanes});
      for (int64_t lane = 0; lane < rows && w.format != Format::bf16; ++lane, row += row_size) {
        if (w.format == Format::f32)
          put_plain(group, reinterpret_cast<const uint32_t*>(row), w.cols, lanes, lane, 1);
        else
          put_plain(group, reinterpret_cast<const uint8_t*>(row), w.cols, lanes, lane, 4);
      }
      for (int64_t b = 0; w.format == Format::fp8_128 && b < blocks; ++b)
        scales[g * blocks + b] = w.scales[g * lanes / kScaleCols * w.scale_cols() + b];
    }
  });
}

double packed_read_bytes(const PackedMatrix& w) {
  const int64_t lanes = packed_target().lanes, bytes = plain_group_bytes(w.format, w.cols, lanes);
  const double all = static_cast<double>(cpu::packed_bytes(w.format, w.rows, w.cols));
  if (w.format != Format::bf16) return all;
  double saved = 0;
  for (int64_t g = 0; g * lanes < w.rows; ++g) {
    const Bf16Head& head = *reinterpret_cast<const Bf16Head*>(w.data + g * bytes);
    if (head.is_short)
      saved += static_cast<double>(bytes - kHeadBytes - short_bytes(w.cols, lanes)) -
               static_cast<double>(head.listed * sizeof(ListedWeight));
  }
  return all - saved;
}

}  // namespace sluice::cpu
