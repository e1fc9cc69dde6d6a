// Packing of weights and rows, and the launches of products with them.
#include "ops/packed.h"

#include <functional>
#include <vector>

#include "base/transfer.h"
#include "ops/block_format.h"
#include "ops/block_quant.h"
#include "ops/cuda/kernel.cuh"
#include "ops/cuda/packed_product.h"
#include "ops/fused.h"
#include "ops/gpu_packed.h"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256;
/// Bytes of a matrix that are brought to the GPU at a time.
constexpr int64_t kPieceBytes = int64_t{32} << 20;

/// Scales of FP8 codes, by blocks from row `row` of the matrix on: kernels decode NaN as 480, so the scale of a block
/// that has one becomes NaN. Null for other formats.
struct BlockScales {
  float* scale = nullptr;
  int64_t row = 0, cols = 0;
};

/// A matrix as it lies in memory before it is packed.
template <class E>
struct Plain {
  const E* data;
  int64_t rows, cols, row_step, col_step;
};

// A thread takes 16 bytes of a tile: `E` is the size of an element.
template <class E>
__global__ void pack_tiles(uint4* out, Plain<E> from, BlockScales scales, int64_t pieces) {
  constexpr int kElements = 16 / sizeof(E), kPerTile = kTileRows * kTileCols / kElements;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= pieces) return;
  const int64_t tiles = (from.cols + kSumCols - 1) / kSumCols * 2, tile = at / kPerTile;
  const int chunk = static_cast<int>(at % kPerTile) / 32, lane = static_cast<int>(at % 32);
  const int64_t row = tile / tiles * kTileRows + chunk % 2 * 8 + lane / 4;
  const int64_t first_col = tile % tiles * kTileCols;
  __align__(16) E piece[kElements];
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    const int place = chunk / 2 * kElements + i;  // of the 16 that the lane has of 64 columns
    const int64_t col = first_col + place / 4 * 16 + lane % 4 * 2 + place % 2 + place % 4 / 2 * 8;
    const bool is_there = row < from.rows && col < from.cols;
    piece[i] = is_there ? from.data[row * from.row_step + col * from.col_step] : E(0);
  }
  out[at] = *reinterpret_cast<const uint4*>(piece);
  if (!scales.scale) return;
  bool has_nan = false;
#pragma unroll
  for (int i = 0; i < kElements; ++i) has_nan |= (piece[i] & 0x7f) == 0x7f;
  if (has_nan) scales.scale[(scales.row + row) / kSumCols * scales.cols + first_col / kSumCols] = NAN;
}

/// Rows [begin, begin + count) of a matrix in a block format as bf16.
void decode_rows(Stream& s, std::vector<uint16_t>& out, const Matrix& w, int64_t begin, int64_t count) {
  out.resize(static_cast<size_t>(count * w.cols));
  parallel_for(s, count, 1, [&](int64_t i, int64_t, int thread) {
    float* values = s.scratch(thread, static_cast<size_t>(w.cols));
    dequantize_row(static_cast<const char*>(w.data) + (begin + i) * row_bytes(w.format, w.cols), w.format, w.cols,
                   values);
    for (int64_t k = 0; k < w.cols; ++k) out[static_cast<size_t>(i * w.cols + k)] = bf16(values[k]).bits;
  });
}

/// Bytes of the host's in memory of the GPU, when the call returns.
void to_gpu(Queue& queue, void* to, const void* from, size_t bytes) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, queue.stream()), "copying weights");
  synchronize(queue);
}

template <class E>
void pack_as(Stream& s, const PackedMatrix& out, const Matrix& w, float* scales) {
  constexpr int64_t kElements = 16 / sizeof(E);
  const int64_t step =
      std::max<int64_t>(1, kPieceBytes / (w.cols * static_cast<int64_t>(sizeof(E))) / kTileRows) * kTileRows;
  std::vector<uint16_t> decoded;
  for (int64_t begin = 0; begin < w.rows; begin += step) {
    const int64_t rows = std::min(step, w.rows - begin);
    const size_t bytes = static_cast<size_t>(rows * w.cols) * sizeof(E);
    const void* from = static_cast<const E*>(w.data) + begin * w.cols;
    if (is_block_format(w.format)) {
      decode_rows(s, decoded, w, begin, rows);
      from = decoded.data();
    }
    E* raw = static_cast<E*>(s.queue().scratch(bytes));
    to_gpu(s.queue(), raw, from, bytes);
    const int64_t pieces = (rows + kTileRows - 1) / kTileRows * kTileRows * gpu_packed_cols(w.cols) / kElements;
    uint4* tiles = reinterpret_cast<uint4*>(out.data) + begin * gpu_packed_cols(w.cols) / kElements;
    pack_tiles<E><<<blocks(pieces, kThreads), kThreads, 0, s.queue().stream()>>>(
        tiles, {raw, rows, w.cols, w.cols, 1}, {scales, begin, w.scale_cols()}, pieces);
    check_launch("packing weights");
  }
}

template <int N>
__global__ void round_rows(char* out, Rows<const float> x, int64_t n, int64_t cols, int64_t pitch) {
  wait_for_previous();
  const int64_t row = launch_row();
  if (row >= n) return;
  half_t* to = reinterpret_cast<half_t*>(out + row * pitch);
  for (int64_t i = threadIdx.x * N; i < pitch / 2; i += blockDim.x * N) {
    float v[N] = {};
    if (i < cols) load_n<N>(x[row] + i, v);
    store_n<N>(to + i, v);
  }
}

__global__ void copy_rows(char* out, Rows<const float> x, int64_t n, int64_t cols, int64_t pitch) {
  const int64_t row = launch_row();
  if (row >= n) return;
  float* to = reinterpret_cast<float*>(out + row * pitch);
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) to[i] = x[row][i];
}

PackedSide side_of(const Tensor& y, const PreparedRows& x, const PackedMatrix& w) {
  PackedSide side{};
  side.data = w.data;
  if (w.format == Format::fp8_128)
    side.scales = reinterpret_cast<const float*>(w.data + gpu_element_bytes(w.format, w.rows, w.cols));
  side.x = reinterpret_cast<const char*>(x.data);
  side.y = y.f32();
  side.ldy = y.ld;
  side.N = y.cols();
  return side;
}

PackedLaunch launch_of(const PreparedRows& x) {
  PackedLaunch launch;
  launch.rows = x.rows;
  launch.K = x.cols;
  launch.x_pitch = static_cast<int64_t>(prepared_row_bytes(x.cols, x.kind));
  return launch;
}

/// The kernels load 16 bytes at a time: elsewhere the GPU would stop with an error that belongs to nobody.
void check_addresses(const PackedLaunch& p) {
  const auto is_aligned = [](const void* data, int64_t step) {
    return reinterpret_cast<uintptr_t>(data) % sizeof(uint4) == 0 && step % static_cast<int64_t>(sizeof(uint4)) == 0;
  };
  for (int i = 0; i < p.sides; ++i) {
    const PackedSide& side = p.side[i];
    check(is_aligned(side.data, side.stride), "packed product: expected weights at multiples of 16 bytes");
    check(is_aligned(side.x, p.x_pitch), "packed product: expected rows of activations at multiples of 16 bytes");
  }
}

/// Rows of an expert, on average, up to which reading the weights is what takes the time.
constexpr int64_t kFewRows = 32;
/// Columns from which on the kernel for many rows has enough blocks to read weights at the speed of the memory.
constexpr int64_t kManyColumns = 16384;

void run(Queue& queue, const PackedLaunch& launch, Format format) {
  if (launch.sides == 0 || launch.rows == 0) return;
  check_addresses(launch);
  const bool is_costly = launch.offsets_E1 || launch.side[0].N >= kManyColumns;
  const bool few = launch.rows / launch.experts <= (is_costly ? kFewRows / 2 : kFewRows);
  if (format == Format::f32)
    packed_f32_product(queue.stream(), launch);
  else if (format == Format::bf16)
    packed_bf16_product(queue.stream(), launch, few);
  else
    packed_fp8_product(queue.stream(), launch, few);
}

/// Launches neighbours in `products` that differ in the matrix alone together. `matrix` gives the first expert's.
template <class P, class GetMatrix>
void run_all(Queue& queue, std::span<const P> products, const GetMatrix& matrix,
             const std::function<void(PackedLaunch&, PackedSide&, const P&)>& complete) {
  PackedLaunch launch;
  Format format = Format::f32;
  for (const P& p : products) {
    const PackedMatrix& w = matrix(p);
    const bool fits = launch.sides > 0 && launch.sides < kMostProducts && w.format == format &&
                      p.y.rows() == launch.rows && p.x.cols == launch.K;
    if (!fits) {
      run(queue, launch, format);
      launch = launch_of(p.x);
      format = w.format;
    }
    PackedSide& side = launch.side[launch.sides++];
    side = side_of(p.y, p.x, w);
    complete(launch, side, p);
  }
  run(queue, launch, format);
}

}  // namespace

void pack_matrix(Stream& s, const PackedMatrix& out, const Matrix& w) {
  Queue& queue = s.queue();
  if (w.format == Format::f32) return to_gpu(queue, out.data, w.data, static_cast<size_t>(w.size()) * sizeof(float));
  if (w.format != Format::fp8_128) return pack_as<uint16_t>(s, out, w, nullptr);
  float* scales = reinterpret_cast<float*>(out.data + gpu_element_bytes(w.format, w.rows, w.cols));
  to_gpu(queue, scales, w.scales, static_cast<size_t>(w.scale_rows() * w.scale_cols()) * sizeof(float));
  pack_as<uint8_t>(s, out, w, scales);
}

void prepare_rows(Stream& s, const PreparedRows& out, const Tensor& x) {
  if (x.size() == 0) return;
  const cudaStream_t stream = s.queue().stream();
  const int64_t n = x.rows(), pitch = static_cast<int64_t>(prepared_row_bytes(x.cols(), out.kind));
  char* to = reinterpret_cast<char*>(out.data);
  if (out.kind == Activations::floats) {
    const RowLaunch l(n, x.cols());
    copy_rows<<<l.grid, l.block, 0, stream>>>(to, rows<const float>(x), n, x.cols(), pitch);
  } else if (is_vector(x)) {
    const RowLaunch l(n, pitch / 2 / kVector);
    launch_early(stream, round_rows<kVector>, l.grid, l.block, 0, to, rows<const float>(x), n, x.cols(), pitch);
  } else {
    const RowLaunch l(n, pitch / 2);
    launch_early(stream, round_rows<1>, l.grid, l.block, 0, to, rows<const float>(x), n, x.cols(), pitch);
  }
  check_launch("prepare_rows");
}

void packed_linear(Stream& s, std::span<const PackedProduct> products) {
  run_all<PackedProduct>(
      s.queue(), products, [](const PackedProduct& p) -> const PackedMatrix& { return p.w; },
      [](PackedLaunch&, PackedSide& side, const PackedProduct& p) { side.add = p.out == Out::add; });
}

void packed_expert_linear(Stream& s, std::span<const PackedExpertProduct> products, const Tensor& offsets_E1) {
  run_all<PackedExpertProduct>(
      s.queue(), products, [](const PackedExpertProduct& p) -> const PackedMatrix& { return p.w.first; },
      [&](PackedLaunch& launch, PackedSide& side, const PackedExpertProduct& p) {
        check(p.w.experts <= kMostExperts, "packed_expert_linear: expected at most 512 experts");
        side.stride = p.w.stride;
        launch.offsets_E1 = offsets_E1.ptr<int32_t>();
        launch.experts = static_cast<int>(p.w.experts);
        launch.last_takes_rest = p.last_takes_rest;
        if (!p.slot_of_R) return;
        launch.rows = p.y.rows();
        launch.slot_of_R = p.slot_of_R.ptr<int32_t>();
        launch.top_k = p.slot_of_R.size() / p.x.rows;
        launch.slots = p.slot_of_R.size();
      });
}

PackedHeads pack_heads(Stream& s, std::byte* memory, const Matrix& kv_b, const LatentShape& a) {
  const auto bank = [&](std::byte* data, int64_t rows, int64_t cols) {
    const int64_t bytes = static_cast<int64_t>(gpu_packed_bytes(Format::bf16, rows, cols));
    return PackedBank{{data, Format::bf16, rows, cols}, bytes, a.heads};
  };
  PackedHeads w;
  w.key = bank(memory, a.latent, a.nope);
  w.value = bank(memory + a.heads * w.key.stride, a.value, a.latent);
  for (int64_t h = 0; h < a.heads; ++h) {
    const uint16_t* from = static_cast<const uint16_t*>(kv_b.data) + h * (a.nope + a.value) * a.latent;
    const auto pack = [&](const PackedBank& to, const Plain<uint16_t>& plain) {
      const int64_t pieces = to.stride / static_cast<int64_t>(sizeof(uint4));
      pack_tiles<uint16_t><<<blocks(pieces, kThreads), kThreads, 0, s.queue().stream()>>>(
          reinterpret_cast<uint4*>(to.first.data + h * to.stride), plain, {}, pieces);
    };
    pack(w.key, {from, a.latent, a.nope, 1, a.latent});
    pack(w.value, {from + a.nope * a.latent, a.value, a.latent, a.latent, 1});
  }
  check_launch("packing kv_b");
  return w;
}

namespace {

/// A matrix per head: rows (T H, K) of activations, outputs `step` elements apart.
void head_product(Stream& s, const Tensor& y, int64_t step, const PreparedRows& x, const PackedBank& w) {
  PackedLaunch launch = launch_of(x);
  launch.heads = static_cast<int>(w.experts);
  launch.x_step = launch.x_pitch;
  launch.x_pitch *= w.experts;
  launch.rows = y.rows();
  launch.y_step = step;
  launch.sides = 1;
  launch.side[0] = side_of(y, x, w.first);
  launch.side[0].stride = w.stride;
  launch.side[0].N = w.first.rows;
  run(s.queue(), launch, w.first.format);
}

}  // namespace

void absorb_rows(Stream& s, Tensor qa, const PreparedRows& nope, const PackedHeads& w, const LatentShape& a) {
  head_product(s, qa, a.row(), nope, w.key);
}

void expand_rows(Stream& s, Tensor o, const PreparedRows& u, const PackedHeads& w, const LatentShape& a) {
  head_product(s, o, a.value, u, w.value);
}

}  // namespace sluice::cuda
