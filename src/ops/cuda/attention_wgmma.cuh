// What the attention kernels for Hopper share: which work a block takes next, which keys a tile of queries sees, and
// how tiles are multiplied, packed and stored.
#pragma once
#include "ops/cuda/hopper.cuh"
#include "ops/cuda/kernel.cuh"
#include "ops/cuda/quad.cuh"
#include "ops/cuda/wgmma_bf16.cuh"

namespace sluice::cuda::wgmma_attention {

// Columns of a head: of keys without and with position, of queries and keys, of values.
constexpr int kNope = 128, kRope = 64, kWidth = kNope + kRope, kValue = 128;
constexpr int kWarpgroup = 128, kMultipliers = 2, kThreads = (kMultipliers + 1) * kWarpgroup;
constexpr int kLine = 128, kLineColumns = 64;  // a line of a tile in shared memory: bytes, bf16 columns
constexpr int kWave = 64;                      // rows of a product of a warpgroup
constexpr int kWaveBox = kWave * kLine, kPairBox = 2 * kWaveBox;  // 64 and 128 lines, in bytes
constexpr int kAlignment = 1024;                                  // of tiles with swizzled lines
constexpr float kLog2E = 1.4426950408889634f;

/// Least and greatest first_T among 64 queries.
struct Span {
  int least, most;
};

/// What all kernels know. Heads are counted over all sequences, `heads` per sequence; this launch takes num_heads of
/// them from first_head on. Without documents first_T and spans are null. `counter` is 0 at launch.
struct Work {
  const int32_t* first_T = nullptr;
  const Span* spans = nullptr;  // of every 64 queries of every sequence
  int* counter = nullptr;
  int tokens = 0, heads = 0, first_head = 0, num_heads = 0;
  int first_tile = 0;  // the forward pass's queries begin there: what lies before is not written
  int64_t rows = 0;    // tokens of all sequences
  float scale = 0;

  __host__ __device__ int waves() const { return (tokens + kWave - 1) / kWave; }
  __device__ int sequence(int head) const { return head / heads; }
  __device__ int64_t row0(int head) const { return static_cast<int64_t>(sequence(head)) * tokens; }
  __device__ Span span(int head, int wave) const { return spans ? spans[sequence(head) * waves() + wave] : Span{0, 0}; }
  /// Whether any query of a wave may see keys before `end`, as far as documents go.
  __device__ bool reaches(int head, int wave, int end) const { return span(head, wave).least < end; }
};

/// A piece of work: a tile of one head. No head: there is no more.
struct Item {
  int head, tile, first, unmasked;  // first and unmasked: the forward pass's blocks of keys
};

/// The next piece of `tiles` tiles per head. Heads go in groups whose keys and values, or queries and gradients, stay
/// in the L2 cache; in a group the tiles with most work come first.
__device__ inline Item next_item(const Work& w, int tiles, bool last_is_longest) {
  constexpr int64_t kGroupBytes = 20 << 20, kBytesPerToken = 2 * (kWidth + kValue);
  const int at = atomicAdd(w.counter, 1);
  if (at >= tiles * w.num_heads) return {-1, 0, 0, 0};
  const int most = max(1, static_cast<int>(kGroupBytes / (kBytesPerToken * w.tokens)));
  const int group = at / (most * tiles), in_group = at % (most * tiles);
  const int size = min(most, w.num_heads - group * most), tile = in_group / size;
  return {w.first_head + group * most + in_group % size, last_is_longest ? tiles - 1 - tile : tile, 0, 0};
}

/// Stage and parity of the next step.
template <int kStages>
struct Place {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

/// Items on their way from the thread that feeds to those that multiply.
struct ItemQueue {
  Item items[2];
  uint64_t full[2], empty[2];

  __device__ void init() {
    for (int n = 0; n < 2; ++n) {
      hopper::init_barrier(&full[n], 1);
      hopper::init_barrier(&empty[n], kMultipliers * kWarpgroup / 32);
    }
  }
  __device__ void push(const Item& item, Place<2>& place) {
    hopper::wait_for(&empty[place.stage], place.parity ^ 1);
    items[place.stage] = item;
    hopper::arrive(&full[place.stage]);
    place.advance();
  }
  __device__ Item pop(Place<2>& place, int lane) {
    hopper::wait_for(&full[place.stage], place.parity);
    const Item item = items[place.stage];
    __syncwarp();
    if (lane == 0) hopper::arrive(&empty[place.stage]);
    place.advance();
    return item;
  }
};

/// What a thread of a multiplying warpgroup knows of its place.
struct Role {
  int group, warp, lane;
  __device__ Role()
      : group(__shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpgroup, 0)),  // one number for the warp
        warp(static_cast<int>(threadIdx.x) % kWarpgroup / 32),
        lane(static_cast<int>(threadIdx.x) % 32) {}
  /// This thread's first row of a wave (the other is 8 further down), and its first column of every eight.
  __device__ int row() const { return warp * 16 + lane / 4; }
  __device__ int column() const { return lane % 4 * 2; }
};

/// After this warp's last use of a stage.
__device__ __forceinline__ void release(uint64_t* empty, const Role& role) {
  if (role.lane == 0) hopper::arrive(empty);
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ uint32_t pack(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ float unpack_first(uint32_t v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float unpack_second(uint32_t v) { return __uint_as_float(v & 0xffff0000u); }

/// The share of a thread of 64 x 16 kSteps outputs as the left side of the next product.
template <int kSteps>
__device__ __forceinline__ void pack_left(hopper::Left (&left)[kSteps], const float (&d)[8 * kSteps]) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k)
#pragma unroll
    for (int n = 0; n < 4; ++n) left[k][n] = pack(d[8 * k + 2 * n], d[8 * k + 2 * n + 1]);
}

/// d = a b' for a wave a and 64 or 128 rows b, both along k in lines: `kBoxes` boxes of 64 columns each.
template <int kBoxes, int kCount>
__device__ __forceinline__ void multiply_along(float (&d)[kCount], uint32_t a, int box_a, uint32_t b, int box_b) {
#pragma unroll
  for (int box = 0; box < kBoxes; ++box)
#pragma unroll
    for (int k = 0; k < kLine; k += 32)
      hopper::multiply<false, false>(d, hopper::side(a + box * box_a + k), hopper::side(b + box * box_b + k),
                                     box > 0 || k > 0);
}

/// d (=|+=) left b for b in lines of k, `box` bytes for each 64 columns.
template <int kSteps, int kCount>
__device__ __forceinline__ void multiply_left(float (&d)[kCount], const hopper::Left (&left)[kSteps], uint32_t b,
                                              int box, bool keep) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k)
    hopper::multiply_across(d, left[k], hopper::side(b + k * 16 * kLine, box), keep || k > 0);
}

/// 32 columns of a thread's row (its first: half 0, its second: half 2), times `factor`, as bf16.
template <int kCount>
__device__ __forceinline__ void store_columns(half_t* to, const float (&d)[kCount], int from, int half, float factor,
                                              int lane, bool is_row) {
  uint32_t v[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int at = from / 2 + 4 * j + half;
    v[j] = pack(d[at] * factor, d[at + 1] * factor);
  }
  transpose_quad(v, lane);
  if (is_row) *reinterpret_cast<uint4*>(to + 8 * (lane % 4)) = make_uint4(v[0], v[1], v[2], v[3]);
}

/// Shared memory of a kernel, aligned.
template <class Shared>
__device__ __forceinline__ Shared& shared_memory(uint8_t* memory) {
  return *reinterpret_cast<Shared*>((reinterpret_cast<uintptr_t>(memory) + kAlignment - 1) / kAlignment * kAlignment);
}

}  // namespace sluice::cuda::wgmma_attention
